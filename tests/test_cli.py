"""`ift check` as a person types it, in a process of its own; bad files are in test_bad_files.py."""

import json
import os
import subprocess
import sys

import pytest

from ift import lock
from ift.cli import check_settings, main
from ift.errors import ConfigError
from ift.run import read_json, read_jsonl
from tests.running import ROOT
from tests.soak import save

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
    from ift.data.contract.prepare import prepare
    from ift.text.chat_templates import template_from

    words = ["data.split=random", "data.max_length=150", "data.too_long=truncate_response", "prompt=phi3"]
    assert ift("check", "rows.json", "model.tokenizer=bytes", *words, "--output=checked").returncode == 0
    monkeypatch.chdir(tmp_path)
    settings = settings_of("data=json", "data.path=rows.json", *words)
    data = prepare(settings.data, template_from(settings.prompt), byte_tokenizer, context_length=1024)
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
    refused = ift("check", "rows.json", "prompt=chat").stderr
    assert "prompt=chat: openai-community/gpt2 has no chat template (prompt.chat_template=FOLDER" in refused


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
        (
            ["prompt=nope"],
            "prompt=nope: no such choice (there is alpaca, alpaca_stanford, auto, auto_phi3, chat, chatml",
        ),
        (["data.splits=random"], "data.splits: no such key (did you mean data.split?)"),
        (["trainer.max_steps=3"], "trainer.max_steps: means something to train.py alone"),
        (["data.max_length=1"], "data.max_length=1: must be 2 or more"),
    ],
)
def test_settings_are_those_of_training_and_refused_as_there(words, message):
    with pytest.raises(ConfigError) as caught:
        check_settings(["rows.json"], words)
    assert str(caught.value).startswith(message)


def test_a_check_with_a_model_of_ones_own_has_that_models_sizes():
    assert check_settings(["rows.json"], ["model.pretrained=folder"]).model.context_length is None
    assert check_settings(["rows.json"], []).model.context_length == 1024


# -- ift verify -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run folder with two checkpoints and a model of one layer."""
    import torch

    from ift.artifacts.model_folder import save_model_folder
    from ift.model.config import GPTConfig
    from ift.model.gpt import GPT
    from ift.text.templates import Segment, Template
    from ift.text.tokenizers import Tokenizer

    torch.manual_seed(0)
    for step in (1, 2):
        assert save(tmp_path / "run" / "checkpoints", step) is None
    tokenizer = Tokenizer.from_ranks({bytes([byte]): byte for byte in range(256)}, "bytes")
    template = Template("short", (Segment("{instruction}"), Segment("\n{output}", supervised=True)))
    save_model_folder(tmp_path / "run" / "model", GPT(GPTConfig(257, 16, 1, 2, 8)), tokenizer, template, {"step": 2})
    return tmp_path / "run"


def test_verify_names_every_folder_of_a_run_and_imports_no_torch(run):
    code = "import sys; from ift.cli import main; code = main(); assert 'torch' not in sys.modules; sys.exit(code)"
    words = [sys.executable, "-c", code, "verify", str(run), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(each["what"], each["ok"]) for each in found] == [
        ("checkpoint", True),
        ("checkpoint", True),
        ("pointer", True),
        ("model", True),
    ]
    assert found[0]["path"] == str(run / "checkpoints" / "step-00000002")
    assert found[0]["tensors"] == 3


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda run: flip(run / "checkpoints/step-00000001/state.json"), "step-00000001/state.json: damaged: sha256 "),
        (lambda run: flip(run / "model/model.safetensors"), "model/model.safetensors: damaged: sha256 "),
        (lambda run: (run / "model/prompt.json").unlink(), "model/prompt.json: missing"),
        (lambda run: flip(run / "checkpoints/LATEST"), "LATEST: does not name step-00000002"),
        (lambda run: flip(run / "checkpoints/LATEST", at=-9), "LATEST: does not name step-00000002"),
        (
            lambda run: (run / "checkpoints/step-00000002").rename(run / "checkpoints/step-00000003"),
            "step-00000003: holds step 2 (renamed?)",
        ),
    ],
)
def test_verify_says_what_is_damaged_and_leaves_it_as_it_is(run, damage, line, capsys, monkeypatch):
    damage(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["ift", "verify", str(run)])
    assert main() == 4
    (damaged,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("damaged ")][:1]
    assert line in damaged
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def flip(path, at=0):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_verify_without_a_run_says_so(tmp_path, capsys, monkeypatch):
    for folder, words in ((tmp_path / "none", "no such run folder"), (tmp_path, "neither checkpoints nor a model")):
        monkeypatch.setattr(sys, "argv", ["ift", "verify", str(folder)])
        assert main() == 2
        assert words in capsys.readouterr().err


# -- ift state -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "line", "code"),
    [
        ("finished", "finished", 0),
        ("stopped by SIGUSR1 after step 3 of 9 (go on with: X)", "stopped by SIGUSR1 after step 3 of 9 ", 75),
        ("failed: step 3: loss nan", "failed: step 3: loss nan", 1),
        ("trained; not answered yet", "killed: go on with: ift train resume=", 1),
        (None, "killed: go on with: ", 1),
    ],
)
def test_state_says_how_a_run_ended_by_its_exit_code(tmp_path, capsys, monkeypatch, status, line, code):
    (tmp_path / "metrics.jsonl").touch()
    if status:
        (tmp_path / "summary.json").write_text(json.dumps({"status": status}))
    monkeypatch.setattr(sys, "argv", ["ift", "state", str(tmp_path)])
    assert main() == code
    assert capsys.readouterr().out.startswith(line)


def test_state_of_a_run_that_is_kept_and_of_one_that_is_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ift", "state", str(tmp_path)])
    with lock.kept(tmp_path):
        assert main() == 1
    assert main() == 1
    assert capsys.readouterr().out.splitlines() == ["running", "not begun"]
    monkeypatch.setattr(sys, "argv", ["ift", "state", str(tmp_path / "none")])
    assert main() == 2
