"""Sweeps whose jobs are other processes, with the real launchers: exit codes, the table, a stop and the way on."""

import csv
import json
import signal
import subprocess
import sys
import time

import pytest

from tests.running import ROOT, TINY, TRAIN, clean_environment, train

LAUNCHERS = [
    ("joblib", ["hydra.launcher.n_jobs=2"]),
    ("submitit_local", []),
    ("ray", ["+hydra.launcher.ray.init.num_cpus=2"]),
]
LONG = ("trainer.max_steps=2000", "trainer.max_epochs=1000", "trainer.val_every=1000", "logger=none")


def table(folder):
    with (folder / "sweep.csv").open() as file:
        return {row["job"]: row["status"].split(":")[0].split(" ")[0] for row in csv.DictReader(file)}


@pytest.mark.parametrize(("launcher", "words"), LAUNCHERS)
def test_a_failed_job_gives_its_code_and_each_failure_is_a_line_of_the_table(tmp_path, launcher, words):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    swept = ["optim.lr=1e-3,1e38", "seed=1,2", "optim.clip=null", "logger=none", f"hydra/launcher={launcher}", *words]
    done = train("-m", f"output_dir={tmp_path}", *swept)
    assert done.returncode == 6, done.stderr
    assert table(tmp_path) == {"0": "finished", "1": "finished", "2": "failed", "3": "failed"}
    for number in (2, 3):
        assert f"  job {number} failed: step 2: loss nan" in done.stdout


@pytest.mark.parametrize(("launcher", "words"), LAUNCHERS)
def test_a_stop_reaches_all_jobs_and_the_sweep_typed_again_goes_on_with_them(tmp_path, launcher, words):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    tiny = [word for word in TINY if not word.startswith(("trainer.max_steps", "trainer.val_every"))]
    swept = ["-m", f"output_dir={tmp_path}", "seed=1,2", f"hydra/launcher={launcher}", *words]
    command = [sys.executable, TRAIN, *swept, *LONG, "trainer.early_stopping=false", *tiny]
    curves = [tmp_path / name / "metrics.jsonl" for name in ("0", "1")]
    for _ in range(2):
        lines = [len(path.read_text().splitlines()) if path.exists() else 0 for path in curves]
        with subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=-1, stderr=-1, text=True) as process:
            end = time.monotonic() + 300
            while time.monotonic() < end and not all(
                path.exists() and len(path.read_text().splitlines()) > before + 3
                for path, before in zip(curves, lines, strict=True)
            ):
                time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 75, errors
        assert table(tmp_path) == {"0": "stopped", "1": "stopped"}
        assert f"type the sweep again with output_dir={tmp_path}" in errors
        left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert str(tmp_path) not in left  # no job works on
    for path in curves:
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == list(range(len(steps)))  # each step once, over both starts
