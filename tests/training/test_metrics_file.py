"""metrics.jsonl and metrics.csv: every number arrives, once."""

import csv
import json

from ift.training.metrics_file import MetricsFile, MetricsTable


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


def test_the_table_has_a_row_a_step_also_after_the_run_went_back(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsFile(path)
    table = MetricsTable(log)

    def record(step, **values):
        for logger in (log, table):
            logger.log_metrics({name.replace("_", "/"): value for name, value in values.items()}, step=step)

    record(0, val_loss=4.0)
    record(1, train_loss=3.0)
    position = log.position()
    record(2, train_loss=2.0)
    record(2, val_loss=2.5)
    again = MetricsFile(path)
    again.go_back(position)
    log, table = again, MetricsTable(again)
    record(2, train_loss=2.0)
    table.finalize("success")
    assert (tmp_path / "metrics.csv").read_text() == "step,val/loss,train/loss\n0,4.0,\n1,,3.0\n2,,2.0\n"


def test_a_table_that_cannot_be_written_is_one_line(tmp_path, capsys):
    log = MetricsFile(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.csv").mkdir()
    table = MetricsTable(log)
    for logger in (log, table):
        logger.log_metrics({"val/loss": 1.0, "rows": [1, 2]}, step=0)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("training goes on")
    (tmp_path / "metrics.csv").rmdir()
    table.finalize("success")
    with (tmp_path / "metrics.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"step": "0", "val/loss": "1.0", "rows": "[1, 2]"}]
