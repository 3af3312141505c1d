"""Runs that an earlier release made are resumed, evaluated, compared, exported and verified by real commands."""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
import yaml

from ift.evaluation.results import read_judgements, read_results
from ift.forms import CONFIG
from ift.run import RunFolder, read_json, read_jsonl
from ift.settings import Settings, keys, load_settings, plain_leaves
from tests.running import ROOT

TRAIN, EVALUATE = str(ROOT / "train.py"), str(ROOT / "evaluate.py")
WHAT_TO_DO = (
    "; add a migration to CONFIG in src/ift/forms.py: what did the release before do where it had no such setting?"
)


@pytest.fixture(scope="module")
def v1(tmp_path_factory):
    """A folder with the runs of version 1, as that release left them. Its tests add to them."""
    folder = tmp_path_factory.mktemp("v1")
    with tarfile.open(ROOT / "tests/fixtures/runs-v1.tar.gz") as file:
        file.extractall(folder, filter="data")
    return folder


@pytest.fixture
def run(v1, warm):
    """run(*command): what it printed; it must end without an error and without a warning."""

    def run(*command, code=0):
        done = warm.run(*command, cwd=v1, timeout=120)
        assert (done.returncode, done.stderr) == (code, ""), done.stderr
        return done.stdout

    return run


# -- settings --------------------------------------------------------------------------------------------------------


def test_every_setting_of_today_has_a_value_in_a_run_of_version_1(v1):
    path = v1 / "runs/finished/config.yaml"
    stored = CONFIG.current(yaml.safe_load(path.read_text()), path)
    groups = {key.rpartition(".")[0] for key in keys(Settings)}
    there = {key for key, _ in plain_leaves(stored)}
    today = set(keys(Settings)) - groups
    assert sorted(today - there) == [], "settings that were added or renamed" + WHAT_TO_DO
    assert sorted(there - today) == [], "settings that were removed or renamed" + WHAT_TO_DO
    settings = load_settings(path)
    assert (settings.model.tokenizer, settings.trainer.max_steps, settings.data.against) == ("bytes", 6, [])
    assert settings.data.split_seed == settings.seed == stored["seed"]  # which drew that release's split


def test_settings_do_not_change_without_a_version_of_their_own():
    """A run of yesterday's version must not lack a setting of today's."""
    names = hashlib.sha256("\n".join(sorted(keys(Settings))).encode()).hexdigest()[:8]
    assert (CONFIG.version, names) == (5, "65c25b89"), (
        f"the settings have changed{WHAT_TO_DO} Then put both values here"
    )


# -- commands --------------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_goes_on_to_the_same_end(v1, run):
    assert "goes on   from step 12" in run(TRAIN, "resume=runs/stopped")
    lines = read_jsonl(v1 / "runs/stopped/metrics.jsonl")
    expected = read_jsonl(v1 / "undisturbed-metrics.jsonl")
    assert [line["step"] for line in lines] == [*range(27)] == [line["step"] for line in expected]
    for line, other in zip(lines, expected, strict=True):
        names = {"tokens", "supervised_tokens", "lr", "train/loss", "val/loss", "grad_norm"} & other.keys()
        for name in names:  # other processors round otherwise
            assert line[name] == pytest.approx(other[name], rel=1e-4)
    assert read_json(v1 / "runs/stopped/summary.json")["status"] == "finished"
    assert "this run is finished" in run(TRAIN, "resume=runs/stopped")


def test_a_finished_run_is_not_touched(v1, run):
    before = (v1 / "runs/finished/metrics.jsonl").read_bytes()
    assert "this run is finished" in run(TRAIN, "resume=runs/finished")
    assert (v1 / "runs/finished/metrics.jsonl").read_bytes() == before


def test_its_answers_are_the_same_ones(v1, run):
    before = (v1 / "runs/finished/responses.jsonl").read_bytes()
    report = v1 / "runs/finished/report.html"
    report.unlink()
    run(EVALUATE, "run=runs/finished", "eval=responses", "eval.generate.max_new_tokens=4", "accelerator=cpu")
    assert (v1 / "runs/finished/responses.jsonl").read_bytes() == before
    page = report.read_text()
    assert "cannot be read" not in page
    assert "0.000 (0.000 to 0.561), n = 3" in page  # of the evaluation that the earlier release made
    assert "61.50 (32.94 to 90.06) on 0 to 100, scored 6 of 6" in page
    assert "60 in = 60 kept + 0 dropped + 0 merged" in page


def test_no_reply_of_a_judge_is_asked_for_again(v1, run):
    """There is no server any more: every verdict is taken from the ledger that the earlier release wrote."""
    finished = RunFolder(v1 / "runs/finished")
    before, problems = read_judgements(finished)
    assert problems == []
    address = before["score-m"].results["judge"]["base_url"]
    printed = run(EVALUATE, "run=runs/finished", "eval=judge", "judge.model=m", f"judge.base_url={address}")
    assert "21 verdicts, 0 requests to make" in printed
    after, problems = read_judgements(finished)
    assert problems == []
    assert after["score-m"].scores == before["score-m"].scores
    assert after["score-m"].results["mean"] == 61.5
    assert read_json(finished.evals / "judge-score-m/results.json")["format"] == 1


def test_its_evaluations_are_read(v1):
    results, problems = read_results(RunFolder(v1 / "runs/finished"))
    assert problems == []
    assert results["triviaqa"]["scores"][0]["n"] == 3


def test_its_checkpoints_and_models_are_whole(run):
    for name in ("finished", "stopped"):
        lines = run("-m", "ift.cli", "verify", f"runs/{name}", "--json").splitlines()
        assert [(found["what"], found["ok"]) for found in map(json.loads, lines)] == [
            ("checkpoint", True),
            ("checkpoint", True),
            ("pointer", True),
            ("model", True),
        ]


def test_its_model_is_exported_with_its_card(v1, run):
    run("-m", "ift.cli", "export", "runs/finished", "--to", "hf")
    (card,) = v1.glob("runs/finished/export/*/README.md")
    text = card.read_text()
    assert "phi3" in text
    assert all(number in text for number in ("5.347", "5.353"))  # validation and test loss of summary.json


def test_runs_of_an_earlier_release_are_compared(v1, run):
    printed = run("-m", "ift.cli", "compare", "runs/finished", "runs/stopped", "--output", "compare.html")
    assert "differences are to finished" in printed
    page = Path(v1 / "compare.html").read_text()
    assert "trainer.save_every" in page
    assert "<td>format" not in page
    assert "Cannot be read" not in page
