"""`ift check` as a person types it, in a process of its own; bad files are in test_bad_files.py."""

import json
import os
import subprocess
import sys

import pytest

from ift.cli import check_settings
from ift.errors import ConfigError
from ift.run import read_json, read_jsonl
from tests.running import ROOT

ROWS = [{"instruction": f"Say the number {i} in words of one syllable.", "output": f"It is {i}."} for i in range(40)]


@pytest.fixture
def ift(tmp_path, byte_tokenizer):
    """ift(*words): the ended process, in a folder with rows.json and the tokenizer bytes."""
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "bytes").mkdir()
    byte_tokenizer.save(tmp_path / "bytes", context_length=1024)

    def ift(*words):
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        return subprocess.run(
            [sys.executable, "-m", "ift.cli", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )

    return ift


def test_a_check_prints_the_report_and_leaves_it_in_a_folder(ift, tmp_path):
    done = ift("check", "rows.json", "model.tokenizer=bytes", "data.split=random", "--duplicates")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "data      40 rows in = 40 kept + 0 dropped; train 34, test 4, validation 2"
    assert any(line.startswith("file      rows.json: 40 rows, alpaca") for line in lines)
    assert any("█" in line for line in lines)
    assert any(line.startswith("cache     made in ") for line in lines)
    assert "  rows.json:1  Say the number 0 in words of one syllable. |" in done.stdout
    assert "▸It is " in done.stdout
    assert lines[-1] == "look at   runs/check/rows/data_report.html"
    report = read_json(tmp_path / "runs/check/rows/data_report.json")
    assert (report["rows_in"], report["kept"], report["supervised_ends"]) == (40, 40, 40)
    assert "40 rows in" in (tmp_path / "runs/check/rows/data_report.html").read_text()
    again = ift("check", "rows.json", "model.tokenizer=bytes", "data.split=random")
    assert "\ncache     read from " in again.stdout


def test_what_training_will_see_is_what_the_check_saw(ift, settings_of, tmp_path, byte_tokenizer, monkeypatch):
    from ift.data.chat_template import template_from
    from ift.data.prepare import prepare

    words = ["data.split=random", "data.max_length=150", "data.too_long=truncate_response", "prompt=phi3"]
    assert ift("check", "rows.json", "model.tokenizer=bytes", *words, "--output=checked").returncode == 0
    monkeypatch.chdir(tmp_path)
    settings = settings_of("data=json", "data.path=rows.json", *words)
    data = prepare(settings.data, template_from(settings.prompt), byte_tokenizer, context_length=1024, seed=123)
    checked, seen = read_json(tmp_path / "checked/data_report.json"), json.loads(json.dumps(data.report))
    assert checked == seen
    assert data.store.meta["from_cache"]  # what the check made serves the training too


def test_a_chat_template_of_a_tokenizer_folder_can_be_checked(ift, tmp_path):
    (tmp_path / "chat").mkdir()
    source = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    source += "{% if add_generation_prompt %}[assistant] {% endif %}"
    (tmp_path / "chat/chat_template.jinja").write_text(source)
    done = ift(
        "check", "rows.json", "model.tokenizer=bytes", "data.split=random", "prompt=chat", "prompt.chat_template=chat"
    )
    assert done.returncode == 0, done.stderr
    assert "[user] Say the number" in done.stdout
    assert "[assistant] ▸It is" in done.stdout
    assert "prompt.chat_template (give one" in ift("check", "rows.json", "prompt=chat").stderr


def test_a_ready_made_test_file_is_compared_with_the_rows(ift, tmp_path):
    (tmp_path / "test.json").write_text(json.dumps([{"instruction": "Name a bird.", "output": "Owl."}, ROWS[3]]))
    done = ift("check", "rows.json", "model.tokenizer=bytes", "data.split=random", "data.test_path=test.json")
    assert done.returncode == 0, done.stderr
    leaks = read_jsonl(tmp_path / "runs/check/rows/leaks.jsonl")
    assert [(leak["file"], leak["row"], leak["twin_file"]) for leak in leaks if leak["split"] == "test"] == [
        ("test.json", 2, "rows.json")
    ]


def test_help_says_what_there_is(ift):
    assert "check" in ift("--help").stdout
    assert "data.fields.output=completion" in ift("check", "--help").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prompt=nope"], "prompt=nope: no such choice (there is alpaca, alpaca_stanford, chat, chatml"),
        (["data.splits=random"], "data.splits: no such key (did you mean data.split?)"),
        (["trainer.max_steps=3"], "trainer.max_steps: means something to train.py alone"),
        (["data.max_length=1"], "data.max_length=1: must be 2 or more"),
    ],
)
def test_settings_are_those_of_training_and_refused_as_there(words, message):
    with pytest.raises(ConfigError) as caught:
        check_settings(["rows.json"], words)
    assert str(caught.value).startswith(message)
