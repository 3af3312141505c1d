"""Weights & Biases as its users know it: its variables, its agents, and what `wandb sync` will read."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ift.errors import ConfigError
from ift.run import RunFolder
from ift.settings import save_settings
from ift.training.loggers import Wandb
from ift.training.weights_and_biases import (
    Written,
    decided,
    log_evaluation,
    row_of,
    sync_line,
    wandb_id,
    wandb_mode,
    written,
)
from tests.running import TRAIN, read_offline_file


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """No variable of W&B from outside."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def as_at_the_start(monkeypatch):
    """W&B reads its variables and files once a process: an earlier test has been there."""
    monkeypatch.setattr("wandb.sdk.wandb_setup._singleton", None)


@pytest.mark.usefixtures("as_at_the_start")
@pytest.mark.parametrize(
    ("environment", "mode", "says_why"),
    [
        ({}, "offline", True),
        ({"WANDB_API_KEY": "x" * 40}, "online", False),
        ({"WANDB_IDENTITY_TOKEN_FILE": "token"}, "online", False),
        ({"WANDB_MODE": "disabled"}, "disabled", False),
        ({"WANDB_DISABLED": "true", "WANDB_API_KEY": "x" * 40}, "disabled", False),
        ({"WANDB_DISABLED": "false", "WANDB_API_KEY": "x" * 40}, "online", False),
        ({"WANDB_MODE": "dryrun"}, "offline", True),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "x" * 40}, "offline", True),
    ],
)
def test_without_a_key_wandb_is_offline_and_says_so(monkeypatch, tmp_path, environment, mode, says_why):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found, why = wandb_mode()
    assert (found, why is not None) == (mode, says_why)


@pytest.mark.usefixtures("as_at_the_start")
def test_a_key_in_netrc_counts(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text(
        "machine api.wandb.ai login user password " + "k" * 40
    )  # the host of W&B before 0.31
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_mode() == ("online", None)


# -- which run, and where ----------------------------------------------------------------------------------------------

VARIABLES = {
    "WANDB_PROJECT": "p", "WANDB_ENTITY": "e", "WANDB_RUN_GROUP": "g", "WANDB_NAME": "n", "WANDB_TAGS": "a, b,",
    "WANDB_NOTES": "some words", "WANDB_JOB_TYPE": "j",
}  # fmt: skip
NAMES = ("project", "entity", "group", "run_name", "tags", "notes", "job_type")


def place(settings, **about):
    logger = decided(settings.logger, **{"before": None, "group": None, **about})
    return [getattr(logger, name) for name in NAMES]


def test_the_command_wins_over_the_environment_and_that_over_nothing(monkeypatch, settings_of):
    assert place(settings_of()) == ["ift", None, None, None, None, None, None]
    assert place(settings_of(), group="sweep") == ["ift", None, "sweep", None, None, None, None]
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert place(settings_of(), group="sweep") == ["p", "e", "g", "n", ["a", "b"], "some words", "j"]
    given = settings_of("logger.project=mine", "logger.tags=[c]", "logger.run_name=x", "logger.job_type=train")
    assert place(given) == ["mine", "e", "g", "x", ["c"], "some words", "train"]


def test_a_run_that_goes_on_stays_where_it_is(monkeypatch, settings_of):
    before = decided(settings_of("logger.project=mine", "logger.notes=old").logger, before=None, group="sweep-1")
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert place(settings_of(), before=before) == ["mine", "e", "sweep-1", "n", ["a", "b"], "old", "j"]
    assert place(settings_of("logger.notes=new"), before=before)[5] == "new"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WANDB_MODE", "onlin", "WANDB_MODE=onlin: must be one of online, offline, disabled, shared"),
        ("WANDB_PROJECT", "a/b", "logger.project=a/b: must be 128 characters or fewer, without / \\ # ? % :"),
        ("WANDB_TAGS", "x" * 65, f"logger.tags: '{'x' * 65}' must be 1 to 64 characters"),
        ("WANDB_RUN_ID", "a/b", "WANDB_RUN_ID=a/b: must be without : ; , # ? / ' and spaces around it"),
    ],
)
def test_what_wandb_would_refuse_is_one_line_before_anything_is_trained(
    monkeypatch, settings_of, variable, value, message
):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as error:
        place(settings_of())
    assert str(error.value) == message


def test_one_id_is_not_for_the_jobs_of_a_sweep(monkeypatch, settings_of):
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    with pytest.raises(ConfigError, match=r"WANDB_RUN_ID=abc: names one run, and a sweep has several \(unset it\)"):
        place(settings_of(), group="sweep")


def test_the_id_is_drawn_once_or_given_once(monkeypatch, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    drawn = wandb_id(RunFolder(tmp_path / "a"))
    assert len(drawn) == 8
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert wandb_id(RunFolder(tmp_path / "b")) == "given"
    assert capsys.readouterr().out == ""
    assert wandb_id(RunFolder(tmp_path / "a")) == drawn  # it would cut the curve in two
    assert capsys.readouterr().out == f"ift: WANDB_RUN_ID=given: this run is {drawn} in W&B and stays it\n"
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    assert wandb_id(RunFolder(tmp_path / "a")) == "given"


def test_under_an_agent_another_project_is_an_error(monkeypatch, settings_of):
    for name, value in {"WANDB_SWEEP_ID": "s", "WANDB_RUN_ID": "r", "WANDB_PROJECT": "theirs"}.items():
        monkeypatch.setenv(name, value)
    assert place(settings_of())[0] == "theirs"
    with pytest.raises(ConfigError, match=r"logger.project=mine: a sweep agent's runs are in its own project \(leave"):
        place(settings_of("logger.project=mine"))


def test_the_line_to_sync_can_be_typed_as_it_stands(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert sync_line(tmp_path / "runs/my run", login=True) == "wandb login, then: wandb sync 'runs/my run/wandb'"
    assert sync_line(Path("/a/b")) == "wandb sync /a/b/wandb"


# -- what `wandb sync` will read ---------------------------------------------------------------------------------------


def test_a_run_that_was_killed_and_evaluated_offline_is_one_curve(monkeypatch, tmp_path, settings_of, capsys):
    """Files in order of their start, as `wandb sync` sends them: each row once, and the last summary says it all."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunFolder(tmp_path)
    settings = replace(settings_of(), logger=decided(settings_of().logger, before=None, group=None))
    save_settings(settings, run.config)

    def record(log, step, **values):
        log.log_metrics({name.replace("_", "/", 1): value for name, value in values.items()}, step=step)

    def open_logger():
        return Wandb(settings.logger, folder=run.path, config={"seed": 1}, run_id=wandb_id(run))

    log = open_logger()
    record(log, 0, train_loss=9.0, val_loss=9.5)  # the untuned model
    record(log, 1, train_loss=8.0)
    record(log, 2, train_loss=7.0)  # the checkpoint is of this step; its validation was still to come
    log.close(exit_code=75, summary={"note": "stopped"}, model=tmp_path)
    log = open_logger()
    record(log, 2, val_loss=7.5)
    record(log, 3, train_loss=6.0)
    record(log, 4, train_loss=5.0)
    log.close(exit_code=1, summary={}, model=tmp_path)  # as if killed: it goes on from step 2 once more
    log = open_logger()
    for step, loss in ((2, None), (3, 6.0), (4, 5.0), (5, 4.0)):
        record(log, step, **({"val_loss": 7.5} if loss is None else {"train_loss": loss}))
    record(log, 5, val_loss=4.5)
    log.close(exit_code=0, summary={"val_loss": 4.5}, model=tmp_path)
    run.metrics.write_text('{"step": 5, "val/loss": 4.5}\n')
    log_evaluation(run, "quick", {"mean": 0.5}, [{"question": "a"}])

    files = [read_offline_file(path) for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    assert len(files) == 4
    assert {(about["run_id"], about["project"]) for file in files for about in file["run"]} == {(wandb_id(run), "ift")}
    assert [file["exit"] for file in files] == [[75], [1], [0], [0]]
    rows = [row for file in files for row in file["history"]]
    curve = [(row["step"], row.get("train/loss"), row.get("val/loss")) for row in rows if "eval/quick/nrows" not in row]
    assert curve == [
        (0, 9.0, 9.5),
        (1, 8.0, None),
        (2, 7.0, None),
        (2, None, 7.5),
        (3, 6.0, None),
        (4, 5.0, None),
        (5, 4.0, None),
        (5, None, 4.5),
    ]
    numbers = [row["_step"] for row in rows]
    assert numbers == sorted(set(numbers))
    summary = written(tmp_path).summary
    last = set(files[-1]["summary"])
    assert {"val_loss", "note", "train/loss", "eval/quick/mean", "eval/quick/nrows"} <= last
    assert (summary["val_loss"], summary["note"], summary["eval/quick/mean"]) == (4.5, "stopped", 0.5)
    assert files[-1]["config"][0]["optim"]["lr"] == settings.optim.lr  # an evaluation takes nothing away
    near = os.path.relpath(tmp_path / "wandb")
    place = tmp_path / "wandb" if near.startswith("..") else near
    assert f"W&B is offline: curves are kept offline (wandb sync {place})" in capsys.readouterr().out


def test_rows_that_a_killed_process_did_not_write_come_from_metrics_jsonl(monkeypatch, tmp_path, settings_of):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = RunFolder(tmp_path)
    about = {"folder": run.path, "config": {}, "run_id": wandb_id(run)}
    log = Wandb(settings_of().logger, **about)
    log.log_metrics({"train/loss": 3.0}, step=1)
    log.close(exit_code=1, summary={}, model=tmp_path)
    deadline = time.monotonic() + 30  # W&B's own process may still be writing when it says that it has ended
    while written(tmp_path).last < 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    run.metrics.write_text(
        '{"step": 1, "train/loss": 3.0}\n{"step": 2, "train/loss": 2.0, "rows": [7], "val/loss": 2.5}\n{"step": 3, "tr'
    )
    log = Wandb(settings_of().logger, **about)
    log.log_metrics({"train/loss": 2.0}, step=2)  # the checkpoint is of step 1
    log.log_metrics({"val/loss": 2.5}, step=2)
    log.log_metrics({"train/loss": 1.0}, step=3)
    log.close(exit_code=0, summary={}, model=tmp_path)
    files = [read_offline_file(path) for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]
    rows = [(row["step"], row.get("train/loss"), row.get("val/loss")) for file in files for row in file["history"]]
    assert rows == [(1, 3.0, None), (2, 2.0, None), (2, None, 2.5), (3, 1.0, None)]


def test_a_file_that_is_cut_counts_as_far_as_it_can_be_read(monkeypatch, tmp_path, settings_of):
    folder = tmp_path / "wandb/offline-run-20261129_000000-abc"
    folder.mkdir(parents=True)
    record = b"\x0a\x02ab"  # no record of W&B's
    header = (b"\0" * 4) + len(record).to_bytes(2, "little") + b"\x01"
    (folder / "run-abc.wandb").write_bytes(b":W&B\x00\x00\x00" + header + record)
    assert written(tmp_path) == Written(files=1)


@pytest.mark.parametrize("value", [{"WANDB_MODE": "onlin"}, {"WANDB_TAGS": "x" * 65}])
def test_a_wrong_variable_ends_the_command_before_torch(tmp_path, warm_without_torch, value):
    done = warm_without_torch.run(TRAIN, f"output_dir={tmp_path / 'run'}", **value)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "must be" in done.stderr


def test_a_run_of_an_earlier_release_goes_on_without_losing_a_row():
    """It counted rows: one for each step and two for each validation, three for the untuned model and the test."""
    for step in range(2, 50):
        assert row_of(step + 1, trained=True) > 3 * step + 3
        assert row_of(step, trained=False) > row_of(step, trained=True) > row_of(step - 1, trained=False)
