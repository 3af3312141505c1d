"""A run of 8 steps in this process, put together as train.py does it, that can end anywhere and go on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from ift.artifacts.machine import Device
from ift.data.contract.examples import Example
from ift.data.datamodule import SFTDataModule
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.sealed import newest
from ift.settings import OptimSettings
from ift.training.callbacks import ValidateAtTheEnd
from ift.training.clock import Clock
from ift.training.metrics_file import MetricsFile
from ift.training.module import SFTModule
from ift.training.objectives import CrossEntropy
from ift.training.resume import Checkpoints, random_state
from ift.training.spikes import Spikes
from ift.training.trainer import early_stopping, make_trainer
from ift.training.writer import Writer
from tests.training.options import trainer_options

END, STEPS, AN_EPOCH, MICRO = 49, 8, 4, 2  # 15 rows, two micro-batches of 2: the last step of an epoch has 3 rows

OPTIM = {
    "name": "adamw", "lr": 1e-2, "weight_decay": 0.1, "decay": "matrices",
    "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "momentum": None,
    "schedule": "cosine", "warmup": 0.3, "warmup_steps": None, "cooldown": None, "min_lr": 0.1, "clip": 0.5,
    "label_smoothing": 0.0, "neftune_alpha": None,
}  # fmt: skip


class Killed(BaseException):
    pass


class EndAt(Callback):
    """Ends a run in the middle of what it does, as a kill would: at the n-th call of a hook."""

    def __init__(self, hook: str, call: int):
        self.calls, self.call = 0, call
        setattr(self, hook, self.counted)

    def counted(self, *args: Any) -> None:
        self.calls += 1
        if self.calls == self.call:
            raise Killed


def rows(number: int, seed: int) -> list[Example]:
    draw = np.random.default_rng(seed)
    examples = []
    for row in range(number):
        length = int(draw.integers(3, 17))
        supervised = np.arange(length) >= int(draw.integers(1, length))
        examples.append(Example(draw.integers(0, END, size=length).astype(np.int32), supervised, row=row))
    return examples


def train(
    folder: Path,
    *,
    end: Callback | None = None,
    seed: int = 0,
    save_every: int | None = 1,
    patience: int | None = None,
    optim: dict[str, Any] | None = None,
    n_embd: int = 8,
) -> dict[str, Any]:
    """Begin a run, or let the one in the folder go on; what it is at its end.

    seed: of weights and random states that a checkpoint replaces. optim: settings of it that are others.
    """
    point = newest(folder / "checkpoints")
    torch.manual_seed(seed if point else 0)
    np.random.seed(seed if point else 0)
    random.seed(seed if point else 0)
    model = GPT(GPTConfig(50, 16, n_layer=1, n_head=2, n_embd=n_embd, dropout=0.2))
    optim = OptimSettings(**OPTIM | (optim or {}))
    objective = CrossEntropy(label_smoothing=optim.label_smoothing, neftune_alpha=optim.neftune_alpha)
    module = SFTModule(model, optim=optim, total_steps=STEPS, objective=objective)
    settings = SimpleNamespace(
        batch_size=2, batching="unpadded", share_prefix=False, pad_to=None, drop_last=False, num_workers=0
    )
    examples = {"train": rows(15, seed=1), "val": rows(3, seed=2), "test": []}
    data = SFTDataModule(examples, settings, end_of_text=END, accumulate=MICRO, seed=11)
    if not point:
        (folder / "metrics.jsonl").unlink(missing_ok=True)
    metrics = MetricsFile(folder / "metrics.jsonl")
    options = trainer_options(max_epochs=2, accumulate=MICRO, val_every=3, save_every=save_every, patience=patience)
    stopping = early_stopping(options.early_stopping)
    writer = Writer(Clock())
    checkpoints = Checkpoints(
        folder / "checkpoints", metrics,
        about={"data": "abc"}, steps=STEPS, steps_per_epoch=AN_EPOCH, val_every=3, save_every=save_every, writer=writer,
    )  # fmt: skip
    trainer = make_trainer(
        options,
        Device("cpu", "fp32"),
        steps=STEPS,
        loggers=[metrics],
        callbacks=[stopping, ValidateAtTheEnd(), Spikes(metrics), checkpoints, *([end] if end else [])],
    )
    with writer:
        trainer.fit(module, data, ckpt_path=point.path if point else None)
    metrics.save()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "moments": {(i, k): v for i, s in trainer.optimizers[0].state_dict()["state"].items() for k, v in s.items()},
        "random": random_state(),
        "rate": trainer.optimizers[0].param_groups[0]["lr"],
        "metrics": [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines],
        "place": (trainer.global_step, module.tokens_seen, module.supervised_seen),
        "stopping": stopping.state_dict(),
    }


def compare(one: Any, other: Any, path: str = "") -> list[str]:
    """Where two ends differ, bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        return [found for key in one for found in compare(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [path]
    return [] if repr(one) == repr(other) else [path]
