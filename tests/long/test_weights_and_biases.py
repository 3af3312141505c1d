"""W&B with real processes: a run that is killed and goes on, and one that a sweep agent starts."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from tests.running import ROOT, TINY, TRAIN, clean_environment, read_offline_file, run, train

SWEEP = """
program: train.py
method: bayes
metric: {name: val_loss, goal: minimize}
parameters:
  optim.lr: {distribution: log_uniform_values, min: 1.0e-5, max: 1.0e-3}
command:
  ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}", "output_dir=runs/sweep/${oc.env:WANDB_RUN_ID}"]
"""


def synced(folder: Path):
    """A run's offline files in the order of their start, as `wandb sync` sends them, and all their history rows."""
    files = [read_offline_file(path) for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
    return files, [row for file in files for row in file["history"]]


def test_a_run_that_is_killed_and_goes_on_is_one_curve_there(tmp_path, warm):
    out = tmp_path / "run"
    words = [*(word for word in TINY if not word.startswith("trainer.")), "trainer.max_steps=9", "trainer.val_every=3"]
    end = warm.start(
        [TRAIN, *words, f"output_dir={out}", "logger=[wandb,csv,tensorboard]"],
        stdout=tmp_path / "out", stderr=tmp_path / "err",
        at=["ift.training.metrics_file:MetricsFile.log_metrics", 8, signal.SIGKILL],
    )  # fmt: skip
    assert end["codes"] == [-9], (tmp_path / "err").read_text()
    done = warm.run(TRAIN, f"resume={out}", WANDB_PROJECT="other")
    assert done.returncode == 0, done.stderr
    done = warm.run(str(ROOT / "evaluate.py"), f"run={out}", "eval=responses")
    assert done.returncode == 0, done.stderr
    files, rows = synced(out)
    assert len(files) == 3
    assert {(about["run_id"], about["project"]) for file in files for about in file["run"]} == {
        ((out / "wandb_id").read_text().strip(), "ift")
    }
    numbers = [row["_step"] for row in rows]
    assert numbers == sorted(set(numbers))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for name in ("train/loss", "val/loss"):
        expected = {line["step"]: line[name] for line in lines if name in line}
        assert {row["step"]: row[name] for row in rows if name in row} == expected
    assert {"val_loss", "eval/responses/exact_match", "train/loss"} <= set(files[-1]["summary"])
    table = (out / "metrics.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in table[1:]] == list(range(10))


def test_a_sweep_agents_run_is_the_run_for_evaluate_too(tmp_path):
    """The command that `wandb agent` would run, made by W&B's own code from the README's sweep.yaml."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load(SWEEP)
    args = {"optim.lr": {"value": 0.001}}
    given = create_sweep_command_args({"args": args})
    given |= {"env": ["/usr/bin/env"], "interpreter": [sys.executable], "program": [str(ROOT / sweep["program"])]}
    command = []
    for word in create_sweep_command(sweep["command"]):
        command += given[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    parameters = tmp_path / "config.yaml"
    parameters.write_text(yaml.safe_dump({"wandb_version": 1, **args}))
    agent = {
        "WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "agents-run", "WANDB_PROJECT": "theirs", "WANDB_ENTITY": "team",
        "WANDB_SWEEP_PARAM_PATH": str(parameters), "WANDB_DIR": str(tmp_path), "WANDB_MODE": "offline",
    }  # fmt: skip
    done = subprocess.run(
        [*command, *TINY],
        cwd=tmp_path, env={**clean_environment(), **agent}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = tmp_path / "runs/sweep/agents-run"
    evaluate = (str(ROOT / "evaluate.py"), f"run={out}", "eval=responses")
    assert run(*evaluate, **agent).returncode == 0
    assert run(*evaluate, WANDB_MODE="offline").returncode == 0  # later, by hand
    files, _ = synced(out)
    places = {(about["run_id"], about["project"], about["entity"]) for file in files for about in file["run"]}
    assert places == {("agents-run", "theirs", "team")}
    assert [file["run"][0]["sweep_id"] for file in files] == ["sweep1", "sweep1", ""]
    assert files[0]["config"][0]["optim.lr"] == 0.001


def test_where_wandb_is_disabled_there_is_no_file_of_it(tmp_path, warm):
    for number, variable in enumerate(({"WANDB_DISABLED": "true"}, {"WANDB_MODE": "disabled"})):
        out = tmp_path / str(number)
        done = train(f"output_dir={out}", run=warm.run, **variable)
        assert done.returncode == 0, done.stderr
        assert "W&B" not in done.stdout
        assert not list(out.glob("wandb*"))
