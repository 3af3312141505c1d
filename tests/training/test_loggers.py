"""metrics.jsonl and W&B: every number arrives, nothing asks, nothing leaks."""

import json

import pytest

from ift.training.loggers import MetricsFile, Wandb, wandb_mode
from tests.running import read_offline_run, train


def test_training_and_validation_of_a_step_share_one_line(tmp_path):
    log = MetricsFile(tmp_path / "metrics.jsonl")
    log.log_metrics({"train/loss": 2.0}, step=1)
    log.log_metrics({"train/loss": 1.5}, step=2)
    log.log_metrics({"val/loss": 1.75}, step=2)
    log.finalize("success")
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "train/loss": 2.0},
        {"step": 2, "train/loss": 1.5, "val/loss": 1.75},
    ]


def test_a_step_that_is_written_and_goes_on_still_has_one_line(tmp_path):
    log = MetricsFile(tmp_path / "metrics.jsonl")
    log.log_metrics({"train/loss": 2.0}, step=1)
    log.log_metrics({"val/loss": 1.5}, step=2)
    log.save()
    log.log_metrics({"test/loss": 1.25}, step=2)
    log.finalize("success")
    log.finalize("success")
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "train/loss": 2.0},
        {"step": 2, "val/loss": 1.5, "test/loss": 1.25},
    ]


def test_a_file_goes_back_to_where_it_was(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsFile(path)
    for step in (1, 2):
        log.log_metrics({"train/loss": 4 - step}, step=step)
    position = json.loads(json.dumps(log.position()))  # as a checkpoint keeps it
    log.log_metrics({"val/loss": 9.0}, step=2)
    log.log_metrics({"train/loss": 1.0}, step=3)
    log.save()
    again = MetricsFile(path)
    again.go_back(position)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "train/loss": 3},
        {"step": 2, "train/loss": 2},
    ]
    again.log_metrics({"val/loss": 5.0}, step=2)
    again.save()
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 2, "train/loss": 2, "val/loss": 5.0}


def test_lines_that_the_disk_refuses_are_written_with_the_next_ones(tmp_path, capsys):
    log = MetricsFile(tmp_path / "none" / "metrics.jsonl")  # a folder that is not there yet
    for step in (1, 2):
        log.log_metrics({"loss": step}, step=step)
    log.save()
    assert capsys.readouterr().out.count("training goes on") == 1
    (tmp_path / "none").mkdir()
    log.log_metrics({"loss": 3}, step=3)
    log.finalize("success")
    lines = [json.loads(line) for line in (tmp_path / "none" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "loss": step} for step in (1, 2, 3)]


class Broken:
    """A W&B run of which nothing works."""

    def __getattr__(self, name):
        raise ConnectionError("the service is gone")


def test_what_wandb_raises_is_one_line_and_ends_wandb_alone(tmp_path, monkeypatch, capsys, settings_of):
    monkeypatch.setattr("ift.training.loggers.start_wandb", lambda *args, **about: Broken())
    log = Wandb(settings_of("logger=wandb").logger, folder=tmp_path, config={}, group=None, run_id="abc")
    for step in (1, 2):
        log.log_metrics({"train/loss": 1.0}, step=step)
    log.log_samples([])
    log.finalize("success")
    log.close(exit_code=0, summary={}, model=tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("ift: W&B failed (ConnectionError the service is gone): training goes on without it")


def test_a_wandb_that_does_not_start_is_one_line_too(tmp_path, monkeypatch, capsys, settings_of):
    def refuse(*args, **about):
        raise OSError("no space left on device")

    monkeypatch.setattr("ift.training.loggers.start_wandb", refuse)
    log = Wandb(settings_of("logger=wandb").logger, folder=tmp_path, config={}, group=None, run_id="abc")
    log.log_metrics({"train/loss": 1.0}, step=1)
    assert log.experiment is None
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "mode", "says_why"),
    [
        ({}, "offline", True),
        ({"WANDB_API_KEY": "x" * 40}, "online", False),
        ({"WANDB_MODE": "disabled"}, "disabled", False),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "x" * 40}, "offline", False),
    ],
)
def test_without_a_key_wandb_is_offline_and_says_so(monkeypatch, tmp_path, environment, mode, says_why):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found, why = wandb_mode()
    assert (found, why is not None) == (mode, says_why)


def test_a_key_in_netrc_counts(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "k" * 40)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert wandb_mode() == ("online", None)


def test_wandb_offline_holds_the_curves_the_config_and_the_samples(tmp_path, warm):
    out = tmp_path / "run"
    result = train(f"output_dir={out}", run=warm.run)
    assert result.returncode == 0, result.stderr
    assert "no W&B key" in result.stdout
    found = read_offline_run(out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "val/loss"):
        assert [h[name] for h in found["history"] if name in h] == pytest.approx([m[name] for m in lines if name in m])
    # untuned, step 2, step 4: each table holds the 2 answers of its own validation
    assert [h["samples/nrows"] for h in found["history"] if "samples/nrows" in h] == [2, 2, 2]
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    tables = sorted(out.glob("wandb/offline-run-*/files/media/table/samples_*.json"))
    uploaded = [row for table in tables for row in json.loads(table.read_text())["data"]]
    columns = ("step", "instruction", "input", "reference", "response")
    assert sorted(uploaded) == sorted([sample[column] for column in columns] for sample in samples)
    assert found["config"][0]["optim"]["lr"] == 0.003
    assert found["exit"] == [0]
    assert {"val_loss", "exact_match", "best_step"} <= set(found["summary"])


def test_a_run_that_fails_is_closed_as_failed_and_keeps_its_key_to_itself(tmp_path):
    out, key = tmp_path / "run", "abcdef0123456789" * 2 + "abcdef01"
    result = train(f"output_dir={out}", "optim.lr=1e38", "optim.clip=null", WANDB_API_KEY=key, WANDB_MODE="offline")
    assert result.returncode == 6, result.stderr
    assert read_offline_run(out)["exit"] == [1]
    assert json.loads((out / "summary.json").read_text())["status"].startswith("failed: step ")
    for path in out.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path
