"""The built-in default on a tenth of its rows: what it prints and what it leaves. tests/long has all of it."""

import json

import numpy as np
import pytest
import torch

from ift.artifacts.model_folder import load_model_folder
from ift.data.reading.rows import read_stored_rows
from ift.run import RunFolder, read_json, read_jsonl
from ift.text.encoding import encode_prompt
from tests.running import TRAIN, run

FILES = """config.yaml data_report.json metrics.jsonl curves.png samples.jsonl test.jsonl responses.jsonl summary.json
    report.html checkpoints/LATEST
    model/config.json model/model.safetensors model/tokenizer.json model/prompt.json""".split()

TENTH = ("data.demo_rows=400", "trainer.max_epochs=4")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("demo") / "run")
    result = run(TRAIN, f"output_dir={folder.path}", *TENTH)
    assert result.returncode == 0, result.stderr
    folder.printed = result.stdout
    return folder


def test_every_file_of_the_run_folder_is_there(demo):
    assert [name for name in FILES if not (demo.path / name).is_file()] == []


def test_the_curves_begin_with_the_untuned_model(demo):
    metrics = read_jsonl(demo.metrics)
    assert metrics[0]["step"] == 0
    assert metrics[0]["val/loss"] == pytest.approx(np.log(2049), abs=0.2)  # nothing learnt: all 2,049 tokens alike
    assert metrics[0]["train/loss"] == pytest.approx(np.log(2049), abs=0.2)
    steps = [m["step"] for m in metrics]
    assert steps == sorted(set(steps))  # one line a step
    assert metrics[-1]["tokens"] == read_json(demo.summary)["train_tokens"]


def test_the_summary_is_one_flat_object_and_names_the_best_step(demo):
    summary, metrics = read_json(demo.summary), read_jsonl(demo.metrics)
    assert not any(isinstance(value, dict | list) for value in summary.values())
    validated = {m["step"]: m["val/loss"] for m in metrics if "val/loss" in m}
    assert validated[summary["best_step"]] == summary["val_loss"] == min(validated.values())
    assert summary["stop_reason"].startswith(("max_epochs", "early stopping"))


def test_what_it_prints_is_worth_reading(demo):
    for words in ("400 rows in = 400 kept + 0 dropped", "the untuned model", "exact match", "report.html"):
        assert words in demo.printed
    assert max(len(line) for line in demo.printed.splitlines()) < 200


def test_the_page_shows_untuned_and_tuned_answers(demo):
    page = demo.report.read_text()
    assert "The same prompts before and after tuning" in page
    samples = read_jsonl(demo.samples)
    assert {s["step"] for s in samples} >= {0, read_json(demo.summary)["best_step"]}
    assert len([s for s in samples if s["step"] == 0]) == 8


def test_transformers_gives_the_same_logits_for_the_model_folder(demo):
    from transformers import AutoTokenizer, GPT2LMHeadModel

    model, tokenizer, template = load_model_folder(demo.model)
    theirs = GPT2LMHeadModel.from_pretrained(demo.model).eval()
    row = read_stored_rows(demo.test_rows)[0]
    ids = encode_prompt(row, template, tokenizer)
    assert AutoTokenizer.from_pretrained(demo.model).encode(template.prompt(row)) == ids
    with torch.no_grad():
        difference = model.eval()(torch.tensor([ids])) - theirs(torch.tensor([ids])).logits
    assert difference.abs().max() < 1e-4  # logits of a trained model reach 30: 1e-5 relative


def test_evaluate_gives_the_same_answers_again(demo, warm):
    before, summary = demo.responses.read_text(), read_json(demo.summary)
    demo.responses.unlink()
    result = warm.run("evaluate.py", f"run={demo.path}", "eval=responses", "eval.generate.max_new_tokens=48")
    assert result.returncode == 0, result.stderr
    again = read_jsonl(demo.responses)
    assert [r["response"] for r in again] == [json.loads(line)["response"] for line in before.splitlines()]
    assert read_json(demo.summary)["exact_match"] == summary["exact_match"]


def test_the_same_command_again_says_that_the_run_is_finished_and_touches_nothing(demo, warm):
    def state():
        return {
            path: path.stat().st_mtime_ns for path in demo.path.rglob("*") if path.name != ".lock" and path.is_file()
        }

    before = state()
    result = warm.run(TRAIN, f"output_dir={demo.path}", *TENTH)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert "this run is finished" in result.stdout
    assert state() == before
