"""A real pretrained model: its answers are transformers', and it is tuned, evaluated and shown by one command."""

import json
import random
import re

import pytest
import torch

from ift.artifacts.smollm2 import from_package
from ift.artifacts.weights import inspect_folder, load_model
from ift.data.demo import demo_rows
from ift.data.reading.rows import Row
from ift.data.small_talk import small_talk
from ift.errors import MachineError
from ift.generation.engine import generate
from ift.run import read_json, read_jsonl
from ift.text.chat_templates import ChatTemplate
from ift.text.encoding import encode_prompt, made_for
from ift.text.tokenizer_files import read_tokenizer
from tests.running import run

PROMPTS, NEW_TOKENS = 100, 48


@pytest.fixture(scope="module")
def folder():
    try:
        return from_package()
    except MachineError as error:
        pytest.skip(f"needs a real model: {error}")


@pytest.fixture(scope="module")
def rows():
    try:
        return list(read_jsonl(small_talk()))
    except MachineError as error:
        pytest.skip(f"needs real rows: {error}")


def test_a_hundred_greedy_answers_are_transformers_token_for_token(folder, rows):
    """Ours are computed together, ragged; theirs one by one, in fp32, each through the model's own chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = sorted({row["instruction"] for row in rows})
    random.Random(0).shuffle(texts)
    asked = [*texts[: PROMPTS - 20], *(" ".join(row.values()) for row in demo_rows(20, seed=1))]
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(folder)
    tokenizer = read_tokenizer(folder)
    template = made_for(ChatTemplate.from_folder(folder), tokenizer)
    prompts = [encode_prompt(Row(text, "", "", file="", number=i), template, tokenizer) for i, text in enumerate(asked)]
    ours = generate(
        load_model(inspect_folder(folder)),
        prompts,
        end_of_text=tokenizer.end_of_text,
        max_new_tokens=NEW_TOKENS,
        batch_size=32,
    )
    same = 0
    for text, prompt, answer in zip(asked, prompts, ours, strict=True):
        ids = tokens.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        assert ids[0].tolist() == list(prompt)
        with torch.inference_mode():
            made = reference.generate(
                ids, max_new_tokens=NEW_TOKENS, do_sample=False, attention_mask=torch.ones_like(ids)
            )
        theirs = [i for i in made[0, ids.shape[1] :].tolist() if i != tokens.eos_token_id]
        same += theirs == list(answer.ids)
    assert (same, len(asked)) == (PROMPTS, PROMPTS)


def test_one_command_tunes_it_and_shows_before_and_after(folder, tmp_path):
    rows = [json.dumps(row) for row in demo_rows(80, seed=0)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    few = ["trainer.max_steps=6", "generate.max_new_tokens=8", "samples.rows=1", "logger=none", "data.split=random"]
    done = run(
        "-m",
        "ift.cli",
        "real",
        f"model.pretrained={folder}",
        f"data.path={tmp_path / 'rows.jsonl'}",
        f"output_dir={tmp_path / 'run'}",
        *few,
    )
    assert done.returncode == 0, done.stderr
    assert "prompt    the model's own chat template" in done.stdout
    table = done.stdout.rpartition("before (95 %)")[2]
    assert re.search(r"^exact match +\d", table, re.MULTILINE)
    assert re.search(r"^general text, bits per byte +0\.\d{3} .* p = ", table, re.MULTILINE)
    assert done.stdout.endswith(f"look at   {tmp_path / 'run' / 'report.html'}\n")
    results = read_json(tmp_path / "run" / "evals" / "before_after" / "results.json")
    assert [each["metric"] for each in results["against_base"]] == [
        "exact_match",
        "rouge_l",
        "chrf",
        "loss",
        "bits_per_byte",
    ]
