"""The data contract inside training, in real processes: the cache at work, the report's hash in the model folder."""

import hashlib
import json
import math
from random import Random

import pytest

from ift.run import read_json, read_jsonl
from tests.running import train

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ROWS = [{"instruction": "".join(Random(i).choices(LETTERS, k=60)), "output": f"It is {i}."} for i in range(60)]
ROWS[51] = {"instruction": ROWS[0]["instruction"] + "!", "output": "Yes."}  # a twin of the first row, in the test split


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, ROWS[0]]))
    return path


def cache_line(done):
    assert done.returncode == 0, done.stderr
    return next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("cache "))


def test_a_second_start_reads_the_tokens_and_a_changed_template_makes_them_anew(rows, tmp_path, warm):
    cache = str(tmp_path / "cache")
    words = ("data=json", f"data.path={rows}", "data.split=random", "dry_run=true", "logger=none")

    def start(name, *more):
        done = train(*words, f"output_dir={tmp_path / name}", *more, run=warm.run, IFT_CACHE_DIR=cache)
        return cache_line(done)

    template = "prompt.segments=[{text: '%s{instruction}='}, {text: '{output}', supervised: true}]"
    assert start("a", template % "") == "made"
    assert start("b", template % "") == "read"
    assert start("c", template % "#") == "made"  # one character
    assert start("d", template % "") == "read"
    rows.write_text(rows.read_text().replace("It is 7.", "It is 8."))
    assert start("e", template % "") == "made"


def test_a_model_knows_the_report_of_its_data_and_scores_are_given_without_leaks_too(rows, tmp_path, warm):
    run = tmp_path / "run"
    words = ("data=json", f"data.path={rows}", "data.split=positional", "logger=none", f"output_dir={run}")
    done = train(*words, run=warm.run)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    report = read_json(run / "data_report.json")
    assert (report["rows_in"], report["kept"], report["merged"]) == (61, 60, 1)
    assert "60 kept" in (run / "data_report.html").read_text()
    about = read_json(run / "model" / "ift.json")
    assert about["data_report"] == hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()
    assert about["data"] == report["fingerprint"]
    (leak,) = read_jsonl(run / "leaks.jsonl")
    assert (leak["split"], leak["row"], leak["twin_row"]) == ("test", 52, 1)
    summary = read_json(run / "summary.json")
    assert (summary["responses"], summary["clean_responses"]) == (6, 5)
    assert summary["clean_test_loss"] != summary["test_loss"]
    assert summary["test_bytes"] == sum(len(row["output"].encode()) for row in read_jsonl(run / "test.jsonl"))
    bits = summary["test_bits_per_byte"] * summary["test_bytes"]  # of all supervised tokens: as many as
    tokens = bits * math.log(2) / summary["test_loss"]
    assert tokens == pytest.approx(round(tokens))
    assert summary["test_bytes"] > tokens > 6  # rows, whose ends are tokens
    assert summary["clean_test_bytes"] < summary["test_bytes"]
    assert "bits a byte of text" in (run / "report.html").read_text()
    assert "5 of the 6 test rows have no near twin in training" in (run / "report.html").read_text()
    config = read_json(run / "model" / "tokenizer_config.json")
    assert "eos_token" in config["chat_template"]
