"""What goes wrong before the first step: each case is a process of train.py, and ends in one line and an exit code.

All of them are found before torch is imported: the torch that these processes see cannot be. One in ten begins with
Python itself, the others are forked from a process that has imported what comes before torch.
"""

import dataclasses
import json
import os
import re
from functools import cache, partial

import numpy as np
import pytest
from safetensors.numpy import save_file

from ift.model.config import GPTConfig
from ift.model.families.gpt2 import GPT2
from ift.run import read_json, read_jsonl
from tests.running import NO_TORCH, TRAIN, run

GOOD = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
ROW = json.dumps(GOOD)

FILES = {
    "good.json": json.dumps([{**GOOD, "input": str(i)} for i in range(100)]),
    "nearly.json": json.dumps([*({**GOOD, "input": str(i)} for i in range(100)), None]),
    "empty.json": "",
    "no-rows.json": "[]",
    "header.csv": "instruction,input,output\n",
    "broken.json": f'[{ROW},\n{ROW},\n{{"instruction": oops}},\n{ROW}]',
    "cut.json": f"[{ROW},\n{ROW[:30]}",
    "cut.jsonl": f"{ROW}\n{ROW[:30]}",
    "no-output.jsonl": f'{ROW}\n{{"instruction": "a", "completion": "b"}}\n{ROW}\n',
    "null.jsonl": f'{ROW}\n{ROW}\n{{"instruction": "a", "output": null}}\n',
    "number.json": f'[{ROW}, {{"instruction": "a", "output": 3}}]',
    "empty-output.json": f'[{ROW}, {{"instruction": "a", "output": " "}}]',
    "half.json": f'[{ROW}, {{"instruction": "a", "output": "\\ud83d"}}]',
    "object.json": f'{{"train": [{ROW}], "test": [{ROW}]}}',
    "lfs.json": "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 99\n",
    "page.json": "<!DOCTYPE html>\n<html><body>Not found</body></html>\n",
    "latin1.json": f'[{ROW},\n{{"instruction": "caf\xe9", "output": "b"}}]'.encode("latin-1"),
    "wrong.parquet": b"PAR1 and then something else",
    "nine.json": json.dumps([{**GOOD, "input": str(i)} for i in range(9)]),
}


@dataclasses.dataclass(frozen=True)
class Case:
    what: str
    command: str
    code: int
    words: str


ROWS = "data=json data.split=random model.tokenizer=bytes data.path="
WEIGHTS = "data=json model.tokenizer=bytes data.path=good.json model=gpt2-small model.pretrained="
CASES = [
    # settings
    Case("wrong key", "trainer.max_epoch=3", 2, "trainer.max_epoch: no such key (did you mean trainer.max_epochs?)"),
    Case("wrong choice", "model=gpt9", 2, "model=gpt9: no such choice (ift train --help lists all "),
    Case("no path", "data=json", 2, "data.path: not set"),
    Case("not key=value", "optim.lr='a", 2, "not key=value"),
    Case("a secret", "logger.entity=hf_" + 34 * "a", 2, "logger.entity: a secret on the command line"),
    Case("broken reference", "optim.lr=${nope}", 2, "optim.lr: Interpolation key 'nope' not found"),
    Case("no output folder", "output_dir=", 2, "output_dir=: must be the path of a folder"),
    Case("unknown tokenizer", "model.tokenizer=gpt3", 2, "model.tokenizer=gpt3: must be gpt2, demo or a folder"),
    Case(
        "no template",
        "prompt.segments=[]",
        2,
        "prompt=chat: a model from scratch has no chat template",
    ),
    Case("fractions", ROWS + "good.json data.fractions.train=0.5", 2, "train, test and val add up to 0.65"),
    Case("max_length", ROWS + "good.json data.max_length=300", 2, "data.max_length=300: the model's context is 256"),
    # rows
    Case("missing file", ROWS + "none.json", 3, "none.json: no such file"),
    Case("folder", ROWS + "folder", 3, "folder: no data files in this folder (.json .jsonl"),
    Case("empty file", ROWS + "empty.json", 3, "empty.json: no rows (the file is empty)"),
    Case("empty list", ROWS + "no-rows.json", 3, "no-rows.json: no rows (an empty list)"),
    Case("only a header", ROWS + "header.csv", 3, "header.csv: no rows"),
    Case("broken JSON", ROWS + "broken.json", 3, "broken.json:3: broken JSON in line 3: Expecting value"),
    Case("cut JSON", ROWS + "cut.json", 3, "cut.json:2: the file ends in the middle of this row"),
    Case("cut JSONL", ROWS + "cut.jsonl", 3, "cut.jsonl:2: the file ends in the middle of this row"),
    Case("no output", ROWS + "no-output.jsonl", 3, 'no-output.jsonl:2: no "output"; 1 of 3 rows cannot be used'),
    Case("null output", ROWS + "null.jsonl", 3, 'null.jsonl:3: "output" is null, not text; 1 of 3 rows cannot be used'),
    Case("number for output", ROWS + "number.json", 3, 'number.json:2: "output" is a number, not text'),
    Case("empty output", ROWS + "empty-output.json", 3, 'empty-output.json:2: "output" is empty'),
    Case("half a character", ROWS + "half.json", 3, 'half.json:2: "output" holds half a character'),
    Case(
        "object",
        ROWS + "object.json",
        3,
        'object.json:1: one JSON object with lists of rows under 2 keys: "train", "test" (',
    ),
    Case("Git LFS", ROWS + "lfs.json", 3, "lfs.json: a Git LFS pointer"),
    Case("HTML", ROWS + "page.json", 3, "page.json: an HTML page, not data (was the download an error page?)"),
    Case("not UTF-8", ROWS + "latin1.json", 3, "latin1.json:2: byte "),
    Case("no Parquet", ROWS + "wrong.parquet", 3, "wrong.parquet: broken Parquet"),
    Case("empty split", ROWS + "nine.json", 3, "data.fractions.test=0.1: 9 rows give 0 for test"),
    Case(
        "long prompt", ROWS + "good.json model.context_length=100", 3, "more than 100; 100 of 100 rows cannot be used"
    ),
    Case("long, error", ROWS + "good.json model.context_length=100 data.too_long=error", 3, "good.json:1: "),
    # weights
    Case("no such folder", WEIGHTS + "./none", 4, "./none: no such folder"),
    Case("another size", WEIGHTS + "tiny", 4, "tiny: not a gpt2-small: n_layer is 1, not 12"),
    Case("cut weights", WEIGHTS + "cut model=pretrained", 4, "model.safetensors: "),
    Case("no safetensors", WEIGHTS + "text model=pretrained", 4, "model.safetensors: not a whole safetensors file"),
    Case("missing shard", WEIGHTS + "shard model=pretrained", 4, "shard/model-2.safetensors: no such file"),
    Case("outside", WEIGHTS + "outside model=pretrained", 4, "names '../../etc/passwd', which is no safetensors file"),
    Case("pickle", WEIGHTS + "pickle model=pretrained", 4, "pickle: only pytorch_model.bin, a pickle"),
    Case("no weights", WEIGHTS + "bytes model=pretrained", 4, "bytes/config.json: no such file"),
    Case("vocabulary", WEIGHTS + "small model=pretrained", 4, "small: 100 tokens, but the tokenizer bytes has 257"),
    Case("broken tokenizer", ROWS + "good.json model.tokenizer=text", 4, "text/tokenizer.json: not a tokenizer"),
    # the machine
    Case("below a file", ROWS + "good.json output_dir=good.json/run", 5, "good.json/run"),
    Case("not a folder", ROWS + "good.json output_dir=good.json", 5, "good.json"),
    Case(
        "holds a run",
        ROWS + "good.json output_dir=done",
        2,
        "done: holds a run without its config.yaml (choose another",
    ),
    Case("no network for rows", "data.hub=nobody/nothing", 5, "nobody/nothing: not loaded from the Hub"),
    Case("no network for weights", WEIGHTS + "nobody/nothing", 5, "nobody/nothing: not fetched from the Hub"),
]


def save_folder(path, *, vocab_size=257):
    """A model folder of one layer and 8 channels, zeros for weights."""
    path.mkdir()
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 256, "vocab_size": vocab_size}
    (path / "config.json").write_text(json.dumps(sizes))
    shapes = GPT2.shapes(GPTConfig(vocab_size, 256, 1, 2, 8))
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    save_file(tensors, path / "model.safetensors")
    return path


def save_weights(folder):
    save_folder(folder / "tiny")
    save_folder(folder / "small", vocab_size=100)
    cut = save_folder(folder / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    text = save_folder(folder / "text")
    (text / "model.safetensors").write_text("no weights at all")
    (text / "tokenizer.json").write_text("{}")
    pickle = save_folder(folder / "pickle")
    (pickle / "model.safetensors").rename(pickle / "pytorch_model.bin")
    for name, second in (("shard", "model-2.safetensors"), ("outside", "../../etc/passwd")):
        shards = save_folder(folder / name)
        (shards / "model.safetensors").rename(shards / "model-1.safetensors")
        index = {"weight_map": {"wte.weight": "model-1.safetensors", "wpe.weight": second}}
        (shards / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, byte_tokenizer):
    """Every bad file there is."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name in ("folder", "bytes", "done"):
        (folder / name).mkdir()
    byte_tokenizer.save(folder / "bytes", context_length=256)
    (folder / "done/metrics.jsonl").write_text("{}\n")
    save_weights(folder)
    return folder


@pytest.fixture(scope="module")
def ended(folder, warm_without_torch):
    """ended(what): the process of this case and the folder that it was given for its run. Each is started once."""

    @cache
    def ended(what):
        number, case = next((i, case) for i, case in enumerate(CASES) if case.what == what)
        start = partial(run, **NO_TORCH) if number % 10 == 0 else warm_without_torch.run
        words = ["logger=none", f"output_dir=out/{number}", *case.command.split()]
        return start(TRAIN, *words, cwd=folder, timeout=120), folder / f"out/{number}"

    return ended


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_bad_input_ends_in_one_line_and_an_exit_code_before_torch_is_imported(case, ended):
    done, _ = ended(case.what)
    assert done.stderr.startswith("ift: error: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert len(done.stderr) <= 301
    assert case.words in done.stderr
    assert done.returncode == case.code
    # a prompt that was decided on is said before what is wrong
    assert re.fullmatch(r"(prompt    alpaca: \S+ has no chat template of its own\n)?", done.stdout)


def test_rows_that_cannot_be_used_are_kept_with_their_reason_though_the_run_is_refused(ended):
    _, output = ended("no output")
    rejected, merged = read_jsonl(output / "rejected.jsonl")
    assert merged["reason"] == "merged: equal to no-output.jsonl:1"
    assert (rejected["file"], rejected["row"]) == ("no-output.jsonl", 2)
    assert rejected["reason"].startswith('no "output"')
    assert rejected["raw"] == {"instruction": "a", "completion": "b"}


def test_a_run_that_was_refused_says_so_in_its_summary(ended):
    _, output = ended("missing file")
    assert read_json(output / "summary.json")["status"].startswith("failed: none.json: no such file")


def test_a_run_that_is_there_already_is_left_as_it_was(ended, folder):
    ended("holds a run")
    assert sorted(os.listdir(folder / "done")) == [".lock", "metrics.jsonl"]
    assert (folder / "done/metrics.jsonl").read_text() == "{}\n"


def test_rows_without_a_fault_get_as_far_as_torch_and_a_few_with_one_do_not_stop_them(folder):
    done = run(TRAIN, *f"{ROWS}nearly.json output_dir=out/nearly logger=none".split(), cwd=folder, **NO_TORCH)
    assert "was imported" in done.stderr
    assert done.stdout.startswith("data      101 rows in = 100 kept + 1 dropped; train 85, test 10, validation 5\n")
    assert read_json(folder / "out/nearly/data_report.json")["dropped"] == 1
    assert [row["row"] for row in read_jsonl(folder / "out/nearly/rejected.jsonl")] == [101]
    assert len(read_jsonl(folder / "out/nearly/test.jsonl")) == 10
