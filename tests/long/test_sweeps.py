"""Sweeps whose jobs are other processes, with the real launchers: exit codes and the table."""

import csv

import pytest

from tests.running import train

LAUNCHERS = [("joblib", ["hydra.launcher.n_jobs=2"]), ("submitit_local", [])]


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
