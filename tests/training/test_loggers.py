"""W&B and TensorBoard on real runs and on broken ones: what they raise never ends a training."""

import json
import threading
from types import SimpleNamespace

import pytest

from ift.run import RunFolder
from ift.training.loggers import TensorBoard, Wandb, chosen
from ift.training.metrics_file import MetricsFile
from tests.running import read_offline_run, train


class Broken:
    """A W&B run of which nothing works."""

    def __getattr__(self, name):
        raise ConnectionError("the service is gone")


def test_what_wandb_raises_is_one_line_and_ends_wandb_alone(tmp_path, monkeypatch, capsys, settings_of):
    monkeypatch.setattr("ift.training.loggers.start_wandb", lambda *args, **about: Broken())
    log = Wandb(settings_of("logger=wandb").logger, folder=tmp_path, config={}, run_id="abc")
    for step in (1, 2):
        log.log_metrics({"train/loss": 1.0}, step=step)
    log.log_samples([dict.fromkeys(("step", "instruction", "input", "reference", "response"), 1)])
    log.finalize("success")
    log.close(exit_code=0, summary={}, model=tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("ift: W&B failed (ConnectionError the service is gone): training goes on without it")


def test_a_wandb_that_does_not_start_is_one_line_too(tmp_path, monkeypatch, capsys, settings_of):
    def refuse(*args, **about):
        raise OSError("no space left on device")

    monkeypatch.setattr("ift.training.loggers.start_wandb", refuse)
    log = Wandb(settings_of("logger=wandb").logger, folder=tmp_path, config={}, run_id="abc")
    log.log_metrics({"train/loss": 1.0}, step=1)
    log.wait()
    assert log.experiment is None
    assert capsys.readouterr().out.count("\n") == 1


def test_nobody_waits_for_wandb_and_it_gets_everything_in_order(tmp_path, monkeypatch, settings_of):
    """W&B starts when two steps are done already: they are the first that it is given."""
    got, started = [], threading.Event()
    run = SimpleNamespace(offline=False, log=lambda values, step: got.append((step, values["train/loss"])))

    def slow(*args, **about):
        assert started.wait(60)
        return run

    monkeypatch.setattr("ift.training.loggers.start_wandb", slow)
    monkeypatch.setattr("ift.training.loggers.finish", lambda run, **about: got.append(about["exit_code"]))
    log = Wandb(settings_of("logger=wandb").logger, folder=tmp_path, config={}, run_id="abc")
    for step in (1, 2):
        log.log_metrics({"train/loss": 10.0 - step}, step=step)
    assert (log.experiment, got) == (None, [])
    started.set()
    log.log_metrics({"train/loss": 7.0}, step=3)
    log.close(exit_code=0, summary={}, model=tmp_path)
    assert log.experiment is run
    assert got == [(4, 9.0), (8, 8.0), (12, 7.0), 0]  # W&B counts four rows a step


def test_tensorboard_has_every_number_of_a_step_in_one_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = TensorBoard(tmp_path)
    log.log_metrics({"train/loss": 2.0, "epoch": 0}, step=1)
    log.finalize("success")  # Lightning does so after each part of a run
    log.log_metrics({"train/loss": 1.0}, step=2)
    log.log_metrics({"val/loss": 1.5}, step=2)
    log.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(file))
    events.Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert found == {"train/loss": [(1, 2.0), (2, 1.0)], "epoch": [(1, 0.0)], "val/loss": [(2, 1.5)]}


def test_what_tensorboard_raises_ends_tensorboard_alone(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("not a folder")
    log = TensorBoard(tmp_path)
    for step in (1, 2):
        log.log_metrics({"train/loss": 1.0}, step=step)
    log.finalize("success")
    log.close()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("ift: TensorBoard failed (FileExistsError ")
    assert line.endswith("training goes on without it; metrics.jsonl has every number")


def test_each_choice_of_loggers_has_its_own_and_nothing_else(tmp_path, monkeypatch, settings_of):
    monkeypatch.setattr("ift.training.loggers.start_wandb", lambda *args, **about: Broken())
    for name in ("WANDB_MODE", "WANDB_DISABLED", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)

    def names(*words):
        found = chosen(settings_of(*words), RunFolder(tmp_path), MetricsFile(tmp_path / "metrics.jsonl"))
        return [type(logger).__name__ for logger in found]

    assert names() == names("logger=wandb") == ["Wandb"]
    assert names("logger=none") == names("logger=[]") == []
    assert names("logger=csv") == ["MetricsTable"]
    assert names("logger=tensorboard") == ["TensorBoard"]
    assert names("logger=[wandb,csv,tensorboard]") == ["MetricsTable", "TensorBoard", "Wandb"]
    assert names("logger.csv=true") == ["MetricsTable", "Wandb"]
    for variable, value in (("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")):
        monkeypatch.setenv(variable, value)
        assert names("logger=[wandb,csv]") == ["MetricsTable"]
        monkeypatch.delenv(variable)


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
