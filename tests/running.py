"""Real processes for tests: `python train.py` and `python evaluate.py` on something tiny, and what W&B wrote."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TINY = (  # a second or two of training on demo rows
    "model=nano", "model.n_layer=1", "model.n_head=2", "model.n_embd=16", "data.demo_rows=60", "data.batch_size=8",
    "trainer.max_steps=4", "trainer.val_every=2",
    "samples.rows=2", "samples.max_new_tokens=3", "generate.max_new_tokens=3",
)  # fmt: skip
TRAIN = str(ROOT / "train.py")
NO_TORCH = {"PYTHONPATH": str(ROOT / "tests/no_torch")}  # where importing torch is an error
if os.environ.get("PYTHONPATH"):
    NO_TORCH["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]


def clean_environment() -> dict[str, str]:
    """Without a W&B key, the network or tracebacks."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "IFT_DEBUG"))}
    return {**clean, "NETRC": "/nonexistent", "HF_HUB_OFFLINE": "1"}


def run(*command: str, cwd: Path = ROOT, timeout: int = 900, **environment: str) -> subprocess.CompletedProcess:
    """A Python program of the repository, without a W&B key, a terminal or the network."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**clean_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def train(*overrides: str, run: Callable[..., subprocess.CompletedProcess] = run, **environment: str):
    """`python train.py` with these overrides, on something tiny in all that they leave open."""
    decided = {override.split("=")[0] for override in overrides}
    tiny = [override for override in TINY if override.split("=")[0] not in decided]
    return run(TRAIN, *overrides, *tiny, **environment)


def read_offline_run(folder: Path) -> dict[str, list[Any]]:
    """What real W&B wrote into the one offline file of a run."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return read_offline_file(path)


def read_offline_file(path: Path) -> dict[str, list[Any]]:
    """History rows, configuration, group, other facts of the run, summary keys and exit code."""
    from ift.training.weights_and_biases import records

    found: dict[str, list[Any]] = {"history": [], "exit": [], "config": [], "group": [], "summary": [], "run": []}

    def key(item: Any) -> str:
        return item.key or "/".join(item.nested_key)

    for record in records(path):
        if record.HasField("history"):
            found["history"].append({key(item): json.loads(item.value_json) for item in record.history.item})
        elif record.HasField("exit"):
            found["exit"].append(record.exit.exit_code)
        elif record.HasField("run"):
            found["group"].append(record.run.run_group)
            names = ("run_id", "project", "entity", "display_name", "notes", "job_type", "sweep_id")
            found["run"].append({name: getattr(record.run, name) for name in names} | {"tags": [*record.run.tags]})
            found["config"].append({key(item): json.loads(item.value_json) for item in record.run.config.update})
        elif record.HasField("summary"):
            found["summary"] += [key(item) for item in record.summary.update]
    return found
