"""Real trainings under torchrun, srun's variables and SLURM's scripts: one run folder, one report, a whole end."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ift.run import RunFolder, read_json, read_jsonl
from tests.running import NO_TORCH, ROOT, TINY, TRAIN, clean_environment
from tests.warm import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the launchers of Linux")
WORDS = [*TINY, "data.batch_size=4", "logger=none"]
BIN = Path(sys.executable).parent
ELASTIC = [sys.executable, "-m", "torch.distributed.run"]


def begin(*command, cwd, **environment):
    return subprocess.Popen(
        command, cwd=cwd, env={**clean_environment(), "GLOO_SOCKET_IFNAME": "lo", **environment},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process, timeout=300):
    """Exit code, stdout, stderr."""
    out, errors = process.communicate(timeout=timeout)
    return process.returncode, out, errors


def losses(run):
    return [line["train/loss"] for line in read_jsonl(run / "metrics.jsonl") if "lr" in line]


def tasks(n, *, nodes=1, job="77"):
    """What srun sets for each of n tasks, and not more."""
    shared = {"SLURM_NTASKS": str(n), "SLURM_NNODES": str(nodes), "SLURM_JOB_ID": job, "SLURM_STEP_ID": "0"}
    each = n // nodes
    return [
        {**shared, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i % each), "SLURM_NODEID": str(i // each)}
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The same run on two ranks that Lightning starts. A LOCAL_RANK that a shell was left with changes nothing."""
    folder = tmp_path_factory.mktemp("plain")
    words = ["trainer=ddp", "output_dir=run", *WORDS]
    code, _, errors = end(begin(sys.executable, TRAIN, *words, cwd=folder, LOCAL_RANK="1"))
    assert code == 0, errors
    return losses(folder / "run")


def test_torchrun_with_ranks_that_start_seconds_apart(tmp_path, plain):
    """Without trainer=ddp: the devices are the launcher's. The folder is named after one moment."""
    late = f'sleep $((3 * LOCAL_RANK)); exec {sys.executable} {TRAIN} "$@"'
    words = ["--nproc-per-node=2", f"--master-port={free_port()}", "--no-python", "bash", "-c", late, "train", *WORDS]
    code, out, errors = end(begin(*ELASTIC, *words, cwd=tmp_path))
    assert code == 0, errors
    (run,) = tmp_path.glob("runs/*/*")
    assert losses(run) == plain
    assert read_json(run / "summary.json")["status"] == "finished"
    assert out.count("rows in = ") == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.parent.name]
    assert not [path for path in run.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def test_two_tasks_of_srun_that_begin_seconds_apart(tmp_path, plain):
    first, second = tasks(2)
    late = begin(sys.executable, TRAIN, "trainer=ddp", *WORDS, cwd=tmp_path, **second)
    time.sleep(3)
    code, _, errors = end(begin(sys.executable, TRAIN, "trainer=ddp", *WORDS, cwd=tmp_path, **first))
    assert code == 0, errors
    assert end(late)[:2] == (0, "")
    (run,) = tmp_path.glob("runs/*/*")
    assert losses(run) == plain


def test_two_nodes_with_a_torchrun_each_on_a_folder_that_they_share(tmp_path, plain):
    port = free_port()
    agents = [
        begin(
            *ELASTIC, "--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1", "--master-addr=127.0.0.1",
            f"--master-port={port}", TRAIN, "trainer=ddp", "trainer.nodes=2", *WORDS, cwd=tmp_path,
        )
        for node in (0, 1)
    ]  # fmt: skip
    for agent in agents:
        code, _, errors = end(agent)
        assert code == 0, errors
    (run,) = tmp_path.glob("runs/*/*")
    assert losses(run) == plain
    assert "nodes: 2" in (run / "config.yaml").read_text()


def test_a_sweep_on_two_ranks_has_one_folder_whoever_started_them(tmp_path):
    words = ["-m", "trainer=ddp", "optim.lr=1e-3,2e-3", *WORDS]
    (tmp_path / "srun").mkdir()
    for process in [begin(sys.executable, TRAIN, *words, cwd=tmp_path / "srun", **task) for task in tasks(2)]:
        code, _, errors = end(process)
        assert code == 0, errors
    (tmp_path / "lightning").mkdir()
    code, _, errors = end(begin(sys.executable, TRAIN, *words, cwd=tmp_path / "lightning"))
    assert code == 0, errors
    for folder in (tmp_path / "srun", tmp_path / "lightning"):
        (sweep,) = folder.glob("runs/*/*")
        assert [read_json(sweep / job / "summary.json")["status"] for job in "01"] == ["finished"] * 2
        assert len((sweep / "sweep.csv").read_text().splitlines()) == 3


def test_where_the_first_rank_fails_the_other_ends_with_one_line(tmp_path):
    (tmp_path / "run").mkdir()
    words = ["output_dir=run", "trainer=ddp", *WORDS]
    (tmp_path / "run" / ".probe").mkdir()  # so the first rank cannot write there, and the other does not try
    both = [begin(sys.executable, TRAIN, *words, cwd=tmp_path, **task) for task in tasks(2)]
    (first, _, problem), (second, _, other) = (end(process, timeout=120) for process in both)
    assert (first, second) == (5, 5)
    assert "cannot be written" in problem.splitlines()[-1]
    assert other.splitlines()[-1] == (
        "ift: error: rank 0 of this run ended: see its error (then type the command again)"
    )


def test_settings_that_contradict_the_launcher_are_refused_once_and_before_torch(tmp_path):
    both = [
        begin(sys.executable, TRAIN, "trainer=ddp", "trainer.devices=3", *WORDS, cwd=tmp_path, **task, **NO_TORCH)
        for task in tasks(2)
    ]
    said = [end(process, timeout=120) for process in both]
    assert [code for code, _, _ in said] == [2, 2]
    assert said[0][2].startswith("ift: error: trainer.devices=3: srun started 2 processes on each node")
    assert said[1][2] == ""


# -- SLURM's scripts ---------------------------------------------------------------------------------------------------

SRUN = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    words.pop(0)
n, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_NNODES"])
running = []
for i in range(n):
    task = dict(SLURM_STEP_ID="0", SLURM_PROCID=str(i), SLURM_LOCALID=str(i % (n // nodes)))
    running.append(subprocess.Popen(words, env={{**os.environ, **task}}))
with open("tasks", "w") as file:
    print(*(each.pid for each in running), file=file)
sys.exit(max(code if code >= 0 else 128 - code for code in (each.wait() for each in running)))
"""
SCONTROL = """#!/bin/bash
case "$1" in
show) echo 127.0.0.1;;
*) echo "$@" >> scontrol.log;;
esac
"""


def install(folder, name, text):
    path = folder / name
    path.write_text(text.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("script", ["srun.sh", "torchrun.sh"])
def test_the_scripts_for_slurm_requeue_a_run_that_was_stopped_until_it_is_finished(tmp_path, script):
    """SLURM's own commands are stood in for; the shell lines, the signal and what follows from it are real."""
    (tmp_path / "bin").mkdir()
    install(tmp_path / "bin", "srun", SRUN)
    install(tmp_path / "bin", "scontrol", SCONTROL.replace("{", "{{").replace("}", "}}"))
    os.symlink(TRAIN, tmp_path / "train.py")
    job = {
        "PATH": f"{tmp_path / 'bin'}:{BIN}:{os.environ['PATH']}", "ENVIRONMENT": "BATCH", "SLURM_JOB_ID": "77",
        "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "2", "SLURM_NNODES": "2",
        "SLURM_JOB_NODELIST": "node[1-2]", "MASTER_ADDR": "127.0.0.1", "RENDEZVOUS_PORT": str(free_port()),
    }  # fmt: skip
    words = [word for word in WORDS if not word.startswith(("trainer.max_steps", "trainer.val_every"))]
    words += ["trainer.max_steps=300", "trainer.max_epochs=100", "trainer.val_every=100"]
    command = ["bash", str(ROOT / "docs/slurm" / script), "run", *words]
    process, run = begin(*command, cwd=tmp_path, **job), RunFolder(tmp_path / "run")
    limit = time.monotonic() + 200
    while not (run.metrics.exists() and '"lr"' in run.metrics.read_text()):
        assert process.poll() is None, end(process)
        assert time.monotonic() < limit
        time.sleep(0.05)
    for task in (tmp_path / "tasks").read_text().split():
        os.kill(int(task), signal.SIGUSR1)
    code, out, errors = end(process)
    assert code == 75, errors
    assert re.search(r"^stopped by SIGUSR1 after step \d+ of 300 ", out, re.MULTILINE), out
    assert (tmp_path / "scontrol.log").read_text() == "requeue 77\n"
    code, out, errors = end(begin(*command, cwd=tmp_path, **{**job, "SLURM_RESTART_COUNT": "1"}))
    assert code == 0, errors
    assert "goes on   from step" in out
    assert out.splitlines()[-1] == "finished"
    assert len(losses(run.path)) == 300
    assert (tmp_path / "scontrol.log").read_text() == "requeue 77\n"
