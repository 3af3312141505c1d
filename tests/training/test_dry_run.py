"""The two short ways, and limits, by real commands."""

import pytest

from ift.run import RunFolder, read_json, read_jsonl
from ift.sealed import read_manifest
from tests.running import train


def test_a_fast_development_run_goes_all_the_way_and_keeps_nothing(tmp_path, warm):
    """And its folder is free for a run after it: shorter by limits, measured, and with the same bits each time."""
    folder = f"output_dir={tmp_path / 'run'}"
    done = train("trainer.fast_dev_run=2", "logger=wandb", folder, run=warm.run)
    assert done.returncode == 0, done.stderr
    assert "limits    7 of 7 training steps in an epoch, 3 of 3 validation rows, 6 of 6 test rows" in done.stdout
    assert "step 2    of 2" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("fast_dev_run: 2 steps, validation loss ")
    assert last.endswith(" 6 answers; nothing was kept (leave out trainer.fast_dev_run to train)")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left <= {".lock", "config.yaml", "data_report.json", "data_report.html", "test.jsonl", "leaks.jsonl"}, left

    done = train(
        folder, "logger=none", "trainer.max_steps=null", "trainer.max_epochs=2", "data.batch_size=2",
        "trainer.limit_train_batches=4", "trainer.val_every=0.5", "trainer.limit_val_batches=1",
        "trainer.limit_test_batches=0.5", "trainer.deterministic=true", "trainer.profiler=pytorch",
        "trainer.devices=-1", "trainer.accelerator=cpu", "trainer.precision=32-true",
        "trainer.monitor=train/loss", "trainer.save_top_k=2", "trainer.early_stopping.patience=null",
        run=warm.run,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "limits    4 of 26 training steps in an epoch, 2 of 3 validation rows, 2 of 6 test rows" in done.stdout
    run = RunFolder(tmp_path / "run")
    metrics = read_jsonl(run.metrics)
    assert [line["step"] for line in metrics if "val/loss" in line] == [0, 2, 4, 6, 8]
    assert (read_json(run.summary)["steps"], len(read_jsonl(run.responses))) == (8, 2)
    assert "aten::addmm" in (run.path / "profile" / "pytorch-0.txt").read_text()
    assert {path.name for path in (run.path / "profile").iterdir()} == {"pytorch-0.txt", "pytorch-0.json"}
    scores = sorted(read_manifest(path)["about"]["score"] for path in (run.path / "best").iterdir())
    by_step = {line["step"]: line["train/loss"] for line in metrics if "val/loss" in line}
    assert scores == pytest.approx(sorted(by_step.values())[:2])
    assert by_step[read_json(run.summary)["best_step"]] == pytest.approx(scores[0])
