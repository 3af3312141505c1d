"""Every family through the real commands: trained, stopped and gone on with, answered, exported, read again."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ift.artifacts.weights import find_weights, load_model
from ift.data.demo import demo_rows
from ift.run import read_json, read_jsonl
from ift.text.tokenizers import Tokenizer
from tests.conftest import BEFORE_TORCH, WITH_TORCH
from tests.model.families import by_transformers
from tests.model.families.test_family import CASES, SIZES
from tests.running import TRAIN
from tests.warm import Warm

TERM = 15
SHORT = (
    "model=pretrained", "data=json", "prompt=alpaca", "logger=none", "seed=7", "data.batch_size=8",
    "data.max_dropped=1", "trainer.max_steps=3", "trainer.val_every=1", "trainer.save_every=1", "optim.lr=1e-3",
    "trainer.accelerator=cpu", "samples.rows=2", "samples.max_new_tokens=3", "generate.max_new_tokens=6",
    "trainer.limit_test_batches=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with rows.json and a tiny model of each family, as a published one: with transformers' own weights."""
    pytest.importorskip("transformers", exc_type=ImportError)
    root, rows = tmp_path_factory.mktemp("families"), demo_rows(120, seed=0)
    (root / "rows.json").write_text(json.dumps(rows))
    texts = [text for row in rows for text in (row["instruction"], row["input"], row["output"])]
    tokenizer = Tokenizer.train(texts, size=400, name="tiny")
    tokens = {"vocab_size": 401, "bos_token_id": 400, "eos_token_id": 400, "pad_token_id": 400}

    def make(name):
        kind, differing = CASES[name]
        sizes = {**SIZES, **tokens, "max_position_embeddings": 256, **differing}
        theirs = by_transformers.made(kind, sizes)
        folder = root / name.replace(" ", "-")
        theirs.save_pretrained(folder)
        tokenizer.save(folder, context_length=256)
        return folder

    return make


@pytest.fixture(scope="module")
def process():
    process = Warm(*BEFORE_TORCH, *WITH_TORCH)
    yield process
    process.close()


def numbers(run):
    """All that was logged of each step, but for what depends on the clock."""
    return [{k: v for k, v in line.items() if "per_second" not in k} for line in read_jsonl(run / "metrics.jsonl")]


@pytest.mark.parametrize("name", CASES)
def test_trained_stopped_gone_on_with_answered_exported_and_read_again(made, process, tmp_path, name):
    folder = made(name)
    command = [TRAIN, *SHORT, f"model.pretrained={folder}", f"data.path={folder.parent / 'rows.json'}"]
    whole, stopped, out = tmp_path / "whole", tmp_path / "stopped", tmp_path / "out"

    def go(*words, codes=(0,), **plan):
        end = process.start(words, stdout=out, stderr=out, **plan)
        assert end["codes"] == list(codes), out.read_text()[-2000:]

    go(*command, f"output_dir={whole}")
    losses = [line["train/loss"] for line in read_jsonl(whole / "metrics.jsonl") if "lr" in line]
    assert len(set(losses)) == 3

    # stopped in the second of three steps, by SIGTERM
    hit = ["ift.training.module:SFTModule.on_before_optimizer_step", 2, TERM]
    go(*command, f"output_dir={stopped}", codes=[75], at=hit)
    go(TRAIN, f"resume={stopped}")
    assert numbers(stopped) == numbers(whole)
    assert read_jsonl(stopped / "responses.jsonl") == read_jsonl(whole / "responses.jsonl")
    expected, found = (load_file(run / "model" / "model.safetensors") for run in (whole, stopped))
    assert all(torch.equal(found[key], value) for key, value in expected.items())

    # transformers answers from the export token for token; a model that begins with it is where the other ended
    export = tmp_path / "export"
    go("-m", "ift.cli", "export", str(whole), "--to", "hf", "--prove", "3", "--output", str(export))
    ids = torch.randint(3, 400, (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, again = (load_model(find_weights(str(place))).eval()(ids) for place in (whole / "model", export))
    assert torch.equal(ours, again)
    longer = tmp_path / "longer"
    go(*command, f"output_dir={longer}", f"model.pretrained={export}", "trainer.max_steps=1")
    summary, first = read_json(whole / "summary.json"), read_jsonl(longer / "metrics.jsonl")[0]
    assert summary["best_step"] > 0
    assert first["val/loss"] == pytest.approx(summary["val_loss"], rel=1e-6)
