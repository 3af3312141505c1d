"""The median rule: which jobs are siblings, what each had reached by then, who ends."""

import json
from types import SimpleNamespace

import pytest
import torch

from ift.run import RunFolder
from ift.training.siblings import EndBehindSiblings, siblings
from tests.running import train


@pytest.fixture
def sweep(tmp_path):
    """sweep(name, [(tokens, loss), ...]): the run folder of a job, validated at these places."""

    def job(name, validations=(), *, fingerprint="abc", key="val/loss", tail=""):
        run = RunFolder(tmp_path / name)
        run.path.mkdir(exist_ok=True)
        run.data_report.write_text(json.dumps({"fingerprint": fingerprint}))
        lines = [{"step": 0, "tokens": 0, key: 0.001}]  # the untuned model's
        for number, (tokens, value) in enumerate(validations, start=1):
            lines += [{"step": number, "tokens": tokens, "train/loss": 1.0}]
            lines += [{"step": number, "tokens": tokens, key: value}]
        run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
        return run

    return job


def ended(run, tokens, losses, *, least=3, monitor="val/loss"):
    """The reason after validations with these losses, the last one after so many tokens; None: it goes on."""
    callback = EndBehindSiblings(run, monitor, least)
    trainer = SimpleNamespace(
        global_step=5, is_global_zero=True, should_stop=False, strategy=SimpleNamespace(broadcast=lambda x: x)
    )
    for loss in losses:
        trainer.callback_metrics = {monitor: torch.tensor(loss)}
        callback.on_validation_end(trainer, SimpleNamespace(tokens_seen=tokens))
    assert trainer.should_stop == (callback.reason is not None)
    return callback.reason


def test_a_job_ends_where_its_best_is_worse_than_the_median_of_the_others_by_then(sweep):
    for number, best in enumerate((1.0, 2.0, 3.0)):
        sweep(str(number), [(100, best + 0.5), (200, best), (300, 0.1)])  # what comes later is not looked at
    run = sweep("mine")
    assert ended(run, 200, [1.9]) is None
    assert ended(run, 200, [2.0]) is None  # no worse than the median
    assert ended(run, 200, [2.1]) == (
        "behind its siblings: best val/loss 2.1, the median of 3 others after as many tokens is 2"
    )
    assert ended(run, 100, [2.1]) is None  # by then theirs were 1.5, 2.5, 3.5
    assert ended(run, 200, [1.5, 2.4]) is None  # its best counts, not its last


def test_too_few_siblings_or_some_that_have_not_come_as_far_end_nobody(sweep):
    sweep("0", [(100, 1.0), (200, 1.0)])
    sweep("1", [(100, 1.0), (200, 1.0)])
    run = sweep("mine")
    assert ended(run, 200, [9.0]) is None
    sweep("2", [(100, 1.0)])
    assert ended(run, 200, [9.0]) is None
    assert ended(run, 100, [9.0]) is not None
    assert ended(run, 200, [9.0], least=2) is not None


def test_jobs_with_other_rows_or_tokens_are_no_siblings(sweep, tmp_path):
    run = sweep("mine")
    for number in range(3):
        sweep(str(number), [(100, 1.0)], fingerprint="other")
    (tmp_path / ".jobs").mkdir()
    (tmp_path / "table.csv").write_text("")
    assert siblings(run) == []
    assert ended(run, 100, [9.0]) is None


def test_accuracy_is_better_the_higher_it_is(sweep):
    for number, value in enumerate((0.2, 0.4, 0.6)):
        sweep(str(number), [(100, value)], key="val/accuracy")
    run = sweep("mine", key="val/accuracy")
    assert ended(run, 100, [0.5], monitor="val/accuracy") is None
    reason = ended(run, 100, [0.3], monitor="val/accuracy")
    assert reason == "behind its siblings: best val/accuracy 0.3, the median of 3 others after as many tokens is 0.4"


def test_half_written_lines_and_numbers_that_are_none_do_no_harm(sweep):
    for number in range(3):
        sweep(str(number), [(100, 1.0)], tail='[1]\n{"step": 9, "tokens": 200, "val/lo')
    broken = sweep("3", [(100, float("nan"))])
    broken.data_report.write_text("{")
    run = sweep("mine")
    assert ended(run, 100, [float("nan")]) is not None  # never a finite loss: worse than all
    assert ended(run, 100, [1.0]) is None


def test_the_untuned_model_decides_nothing_and_a_resumed_job_remembers_its_best(sweep):
    for number in range(3):
        sweep(str(number), [(100, 1.0)])
    run = sweep("mine")
    callback = EndBehindSiblings(run, "val/loss", 3)
    callback.on_validation_end(
        SimpleNamespace(global_step=0, callback_metrics={"val/loss": torch.tensor(0.5)}), SimpleNamespace(tokens_seen=0)
    )
    assert callback.best == float("inf")
    callback.load_state_dict({"best": 0.7})
    assert EndBehindSiblings(run, "val/loss", 3).state_dict() == {"best": float("inf")}
    assert callback.state_dict() == {"best": 0.7}


def test_in_a_real_sweep_the_job_that_learns_least_ends_early(warm, tmp_path):
    """The rate that changes nothing comes last: by then three others are further."""
    words = ("optim.lr=0.003,0.01,0.02,1e-9", "trainer.early_stopping.siblings=3", "trainer.max_steps=6")
    done = train(
        "-m", *words, "trainer.val_every=2", "logger=none", "trainer.accelerator=cpu", f"output_dir={tmp_path}",
        run=warm.run,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summaries = [json.loads((tmp_path / str(n) / "summary.json").read_text()) for n in range(4)]
    assert [s["stop_reason"].split(":")[0] for s in summaries[::3]] == ["max_steps=6", "behind its siblings"]
    assert [s["steps"] for s in summaries[::3]] == [6, 2]
    assert all(s["status"] == "finished" and s["responses"] for s in summaries)
