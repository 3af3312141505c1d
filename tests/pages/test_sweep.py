"""The table at the end of a sweep, from real multiruns."""

import csv
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ift import jobs
from ift.pages.sweep import differing, job_table, plots, show_sweep, sweep_table, varied, without_groups
from tests.running import TINY, TRAIN, read_offline_run, train
from tests.warm import Warm


def job(folder: Path, name: str, **summary) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "summary.json").write_text(json.dumps(summary))


def test_jobs_are_sorted_by_validation_loss_and_failed_ones_come_last(tmp_path):
    job(tmp_path, "0", val_loss=2.5, choices="optim.lr=1 seed=1", status="finished")
    job(tmp_path, "1", choices="optim.lr=2 seed=1", status="failed: step 3: loss nan")
    job(tmp_path, "2", val_loss=1.5, choices="optim.lr=3 seed=1", status="finished")
    (tmp_path / "10").mkdir()
    rows = sweep_table(tmp_path)
    assert [row["job"] for row in rows] == ["2", "0", "1", "10"]
    assert [row["status"] for row in rows] == ["finished", "finished", "failed: step 3: loss nan", "no summary"]


@pytest.mark.parametrize("content", ["{", "[]", 100_000 * "[", '{"val_loss": [1], "choices": 3, "status": {}}'])
def test_a_damaged_summary_is_a_row_of_its_own_and_the_others_stand(tmp_path, content):
    job(tmp_path, "0")
    (tmp_path / "0/summary.json").write_text(content)
    job(tmp_path, "1", val_loss=2.5, choices="seed=1", status="finished")
    rows = sweep_table(tmp_path)
    assert [(row["job"], row["status"]) for row in rows] == [("1", "finished"), ("0", "summary.json is damaged")]
    assert differing(rows) == ["seed=1", ""]


def test_the_table_shows_the_overrides_in_which_jobs_differ():
    rows = [{"choices": "optim.lr=1 seed=1 data=demo"}, {"choices": "optim.lr=2 seed=1 data=demo"}]
    assert differing(rows) == ["optim.lr=1", "optim.lr=2"]


def test_the_table_drops_groups_where_no_two_keys_become_one():
    choices = ["optim.lr=1 model.dropout=0 optim=adamw", "optim.lr=2 model.dropout=0.1 judge.lr=3"]
    assert without_groups(choices) == ["optim.lr=1 dropout=0 optim=adamw", "optim.lr=2 dropout=0.1 judge.lr=3"]


LONG = "optim.weight_decay=0.0123456 trainer.early_stopping.patience=3 data.path=a/folder/with/a/long/name.json"


def test_the_table_fits_80_columns_and_no_number_is_cut(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    numbers = {"val_loss": 1.2345678e-05, "test_loss": 12345678.9, "exact_match": 0.98765, "train_seconds": 123456.7}
    for name, decay in (("0", "0.1"), ("1", "0.2"), ("1234", "0.3")):
        choices = LONG.replace("0.0123456", decay)
        job(tmp_path, name, choices=choices, status="finished", best_step=123456, **numbers)
        (tmp_path / name / "test.jsonl").write_text(json.dumps({"instruction": name}) + "\n")
    show_sweep(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[2:-3])) <= 80
    for number in ("1.235e-05", "1.235e+07", "0.9877", "123456", "finished", "1234"):
        assert any(f" {number} " in f" {line} " for line in lines), number
    assert any(line.startswith("test rows differ: ") for line in lines)


def test_of_other_tokenizers_the_best_job_is_the_one_with_the_fewest_bits_per_byte(tmp_path, capsys):
    for name, loss, bits, tokenizer in (("0", 1.0, 2.0, "bytes"), ("1", 3.0, 1.5, "gpt2"), ("2", None, None, "gpt2")):
        numbers = {} if loss is None else {"val_loss": loss, "val_bits_per_byte": bits, "test_bits_per_byte": bits}
        job(tmp_path, name, choices=f"model={name}", status="finished", **numbers)
        (tmp_path / name / "data_report.json").write_text(json.dumps({"tokenizer": tokenizer}))
    rows = sweep_table(tmp_path)
    assert [row["job"] for row in rows] == ["1", "0", "2"]
    table = job_table(rows)
    better = {column.title: column.better for column in table.columns}
    assert (better["val loss"], better["val bits per byte"]) == (0, -1)
    assert [cell.whole for cell in table.rows[0]][-2:] == ["gpt2", "finished"]
    assert [plot["title"] for plot in plots(rows)] == ["validation bits per byte over model"]
    show_sweep(tmp_path)
    out = capsys.readouterr().out
    assert "3 jobs, best validation bits per byte first" in out
    assert "tokenizers differ: losses per token of one tokenizer alone can be compared, bits per byte of all" in out

    (tmp_path / "0/summary.json").write_text(json.dumps({"val_loss": 1.0, "choices": "model=0", "status": "finished"}))
    rows = sweep_table(tmp_path)  # one of an earlier release: no order says which is better
    assert plots(rows) == []
    show_sweep(tmp_path)
    assert "3 jobs, by validation loss, which is no order of merit: tokenizers differ" in capsys.readouterr().out


def test_the_table_names_each_failure_and_lists_no_folder_of_a_launcher(tmp_path, capsys):
    job(tmp_path, "0", val_loss=2.5, choices="seed=1", status="finished")
    job(tmp_path, "1", choices="seed=2", status="failed: step 3: loss nan")
    (tmp_path / "2").mkdir()
    jobs.note(tmp_path, "2", choices="seed=3", code=2, status="failed: no such file")
    jobs.note(
        tmp_path, "0", choices="seed=9", code=2, status="failed: the run was begun with 1"
    )  # refused: typed again
    (tmp_path / ".submitit").mkdir()
    show_sweep(tmp_path)
    out = capsys.readouterr().out
    assert "\n3 jobs, " in out
    assert "  job 0 failed: the run was begun with 1\n" in out
    assert "  job 1 failed: step 3: loss nan\n  job 2 failed: no such file\n" in out
    assert [row["val_loss"] for row in sweep_table(tmp_path)] == [None, None, None]


def test_the_page_has_a_column_for_each_setting_in_which_jobs_differ_and_a_drawing_with_axes(tmp_path):
    for i, (lr, optimizer, loss) in enumerate([("1e-4", "adamw", 2.0), ("1e-3", "lion", 1.0), ("1e-2", "adamw", 3.0)]):
        job(tmp_path, str(i), val_loss=loss, choices=f"optim.lr={lr} optim={optimizer} seed=1", status="finished")
    job(tmp_path, "3", choices="optim.lr=1 optim=adamw seed=1", status="failed: step 3: loss nan")
    rows = sweep_table(tmp_path)
    assert list(varied(rows)) == ["optim.lr", "optim"]
    table = job_table(rows)
    assert [column.title for column in table.columns][:4] == ["job", "optim.lr", "optim", "val loss"]
    assert [column.numeric for column in table.columns][:4] == [False, True, False, True]
    assert [cell.whole for cell in table.rows[0]][:4] == ["1", "1e-3", "lion", "1"]
    assert table.csv().splitlines()[1].startswith("1,0.001,lion,1,")
    assert [cell.whole for cell in table.rows[-1]][-1] == "failed: step 3: loss nan"
    over_lr, over_optimizer = plots(rows)
    assert [label for _, label in over_lr["x_ticks"]] == ["0.0001", "0.001", "0.01"]  # logarithmic
    x = {label: x for x, _, label in over_lr["points"]}
    assert sorted(x) == [
        f"job {i}: optim.lr={lr}, {loss}" for i, (lr, loss) in enumerate([("1e-4", 2), ("1e-3", 1), ("1e-2", 3)])
    ]
    left, middle, right = sorted(x.values())
    assert middle - left == pytest.approx(right - middle, abs=0.2)
    y = {label: y for _, y, label in over_lr["points"]}
    assert y["job 1: optim.lr=1e-3, 1"] > y["job 2: optim.lr=1e-2, 3"]  # down is lower
    assert [label for _, label in over_optimizer["x_ticks"]] == ["lion", "adamw"]


@pytest.fixture
def sweep(tmp_path: Path, warm: Warm) -> Callable[..., tuple[subprocess.CompletedProcess, list[dict[str, str]]]]:
    """sweep(*overrides): the ended process, and the table that it left in tmp_path."""

    def sweep(*overrides: str):
        result = train("-m", f"output_dir={tmp_path}", *overrides, run=warm.run)
        with (tmp_path / "sweep.csv").open() as file:
            return result, list(csv.DictReader(file))

    return sweep


def test_a_sweep_goes_on_past_a_failed_job_and_each_job_has_its_own_wandb_run_in_one_group(sweep, tmp_path):
    result, rows = sweep("optim.lr=1e-3,1e38", "optim.clip=null")
    assert result.returncode == 6  # the failed job's
    assert [(row["job"], row["status"][:8]) for row in rows] == [("0", "finished"), ("1", "failed: ")]
    assert (
        "optim.clip" not in result.stdout.split("best validation loss first")[1]
    )  # the same for all: not in the table
    runs = [read_offline_run(tmp_path / name) for name in ("0", "1")]
    assert [run["exit"] for run in runs] == [[0], [1]]
    assert runs[0]["group"][0] == runs[1]["group"][0] != ""


def test_the_optuna_sweeper_minimises_the_best_validation_loss(sweep, tmp_path):
    result, rows = sweep("experiment=optuna_lr", "hydra.sweeper.n_trials=2", "trainer.max_steps=2", "logger=none")
    assert result.returncode == 0, result.stderr
    best = min(float(row["val_loss"]) for row in rows)
    assert len(rows) == 2
    results = (tmp_path / "optimization_results.yaml").read_text()
    assert f"best_value: {best}" in results
    assert f"look at   {tmp_path / 'compare.html'}" in result.stdout
    page = (tmp_path / "compare.html").read_text()
    assert "2 runs compared" in page
    assert "All 2 jobs" in page
    assert "validation loss over optim.lr" in page
    page = page.split("shown in drawings and answers")[1]
    assert page.index(f"{rows[0]['job']} optim.lr=") < page.index(f"{rows[1]['job']} optim.lr=")  # the best comes first


def test_a_sweep_over_seeds_tests_all_its_jobs_on_the_same_rows(tmp_path, warm_without_torch):
    """Without torch each job ends after it has written its rows down."""
    for number, seed in enumerate((1, 2)):
        train(f"output_dir={tmp_path}/{number}", f"seed={seed}", "data.split=random", run=warm_without_torch.run)
    train(f"output_dir={tmp_path}/2", "data.split_seed=1", "data.split=random", run=warm_without_torch.run)
    first, second, other = ((tmp_path / f"{number}/test.jsonl").read_text() for number in range(3))
    assert first == second != other
    assert len(first.splitlines()) == 6


def test_a_stopped_sweep_typed_again_skips_what_is_done_and_goes_on_with_what_was_stopped(sweep, tmp_path, warm):
    words = ["-m", f"output_dir={tmp_path}", "optim.lr=1e-3,2e-3", "trainer.save_every=1", "logger=none"]
    first = {name: tmp_path.parent / f"{tmp_path.name}.{name}" for name in ("stdout", "stderr")}
    tiny = [word for word in TINY if word.partition("=")[0] not in ("trainer.val_every",)]
    end = warm.start(
        [TRAIN, *words, *tiny, "trainer.val_every=2"], **first,
        at=["ift.training.module:SFTModule.training_step", 7, signal.SIGTERM],  # the third step of the second job
    )  # fmt: skip
    assert end["codes"] == [75]
    assert f"type the sweep again with output_dir={tmp_path}" in first["stderr"].read_text()
    before = (tmp_path / "0/metrics.jsonl").read_bytes()
    result, rows = sweep("optim.lr=1e-3,2e-3", "trainer.save_every=1", "logger=none")
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path}/0: this run is finished; nothing was done" in result.stdout
    assert "goes on   from step 3" in result.stdout
    assert {row["status"] for row in rows} == {"finished"}
    assert (tmp_path / "0/metrics.jsonl").read_bytes() == before
    result, rows = sweep("optim.lr=1e-3,3e-3", "trainer.save_every=1", "logger=none")
    assert result.returncode == 2
    assert "job 1: optim.lr=0.003: the run was begun with 0.002" in result.stderr
    assert [(row["job"], row["status"][:6]) for row in rows] == [("0", "finish"), ("1", "failed")]
