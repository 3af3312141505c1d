"""The trainer of a run: how long it is, how often it validates, why it ended. Counted by us, in optimizer steps."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_only

from ift.artifacts.machine import Device, choose_device, give_freed_memory_back, keep_freed_memory
from ift.artifacts.weights import Folder
from ift.data.datamodule import SFTDataModule
from ift.errors import DataError
from ift.launch import here
from ift.rules import MONITORS
from ift.sealed import Sealed
from ift.settings import EarlyStoppingSettings, Settings, TrainerSettings
from ift.training.loops import Trainer
from ift.training.module import SFTModule
from ift.training.patience import Patience
from ift.training.ranks import environment
from ift.training.resume import Checkpoints
from ift.training.sharded import strategy_of

VALIDATIONS = 10  # in a run, where trainer.val_every is not set


def quiet_lightning() -> None:
    """Leave out Lightning's hints and notes on itself: what a person should know is said by us, once."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*treespec.*",
        ".*does not have many workers.*",
        ".*Checkpoint directory.*exists.*",
        ".*across ranks is zero.*",
        ".*sync_dist=True.*",  # what we log is the same on every rank already
    ):
        warnings.filterwarnings("ignore", message)


def set_up_process(settings: Settings, *, n_embd: int) -> Device:
    """Random states, memory and messages of this process; which device and precision it has. Raises MachineError."""
    trainer = settings.trainer
    quiet_lightning()
    cast(Any, rank_zero_only).rank = here().rank  # Lightning would take one variable alone for a launcher
    if trainer.strategy == "fsdp":
        give_freed_memory_back()
    else:
        keep_freed_memory()
    L.seed_everything(settings.seed, verbose=False)
    if trainer.deterministic:
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # what cuBLAS needs for it, before its first product
        torch.use_deterministic_algorithms(True, warn_only=trainer.deterministic == "warn")
    device = choose_device(trainer.accelerator, trainer.precision, n_embd=n_embd, devices=trainer.devices or 1)
    return replace(device, nodes=trainer.nodes or 1)


def make_trainer(
    settings: TrainerSettings,
    device: Device,
    *,
    steps: int,
    loggers: Sequence[Logger],
    callbacks: Sequence[Callback],
    profiler: Profiler | None = None,
    weights: Folder | None = None,
) -> Trainer:
    """Lightning's trainer, without what we do ourselves.

    steps: of the whole run; callbacks: one is a Checkpoints; weights: of a model on the meta device, for trainer=fsdp
    """
    (checkpoints,) = (callback for callback in callbacks if isinstance(callback, Checkpoints))
    return Trainer(
        accelerator=device.accelerator,
        devices=list(device.numbers) or device.count,
        num_nodes=device.nodes,
        strategy=strategy_of(settings, world=device.world, weights=weights),
        precision="32-true",  # weights, gradients and optimizer; `compute_in` says what products are computed in
        max_epochs=-1,
        max_steps=steps,
        accumulate_grad_batches=settings.accumulate,
        val_check_interval=val_every(settings, steps) * settings.accumulate,  # micro-batches: always whole steps
        check_val_every_n_epoch=None,
        logger=list(loggers),
        log_every_n_steps=1,
        callbacks=list(callbacks),
        profiler=profiler,
        plugins=[checkpoints.files, environment()],
        enable_checkpointing=False,  # Lightning's own; ours is among the callbacks
        use_distributed_sampler=False,  # StepSampler knows about ranks
        inference_mode=False,  # running sums live through evaluation and training: no inference tensors
        num_sanity_val_steps=0,  # the untuned model is measured instead
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(trainer: L.Trainer, module: SFTModule, data: SFTDataModule, checkpoint: Sealed | None) -> None:
    """Measure the untuned model, then train it; or go on from a checkpoint."""
    if checkpoint is None:
        trainer.validate(module, data.baseline_dataloaders(), verbose=False)
    trainer.fit(module, data, ckpt_path=checkpoint.path if checkpoint else None)


def total_steps(settings: TrainerSettings, steps_per_epoch: int) -> int:
    if steps_per_epoch == 0:
        raise DataError("data.drop_last=true: fewer training rows than one step takes (set it to false)")
    steps = settings.max_epochs * steps_per_epoch
    return min(steps, settings.max_steps) if settings.max_steps else steps


def val_every(settings: TrainerSettings, steps: int) -> int:
    """Optimizer steps between validations, where val_every is no share of an epoch (see `in_steps`)."""
    return settings.val_every or math.ceil(steps / VALIDATIONS)


def in_steps(settings: TrainerSettings, steps_per_epoch: int) -> TrainerSettings:
    """The same with val_every in steps, where it is a share of an epoch (1.0: once an epoch); at least one."""
    if not isinstance(settings.val_every, float):
        return settings
    return replace(settings, val_every=max(1, int(settings.val_every * steps_per_epoch)))


def early_stopping(settings: EarlyStoppingSettings, monitor: str = "val/loss") -> Patience:
    return Patience(
        monitor=monitor,
        mode=MONITORS[monitor],
        patience=settings.patience or 10**9,
        min_delta=settings.min_delta,
        check_on_train_epoch_end=False,  # patience counts validations, not epochs
        verbose=False,
    )


def stop_reason(trainer: L.Trainer, settings: TrainerSettings, stopping: Patience) -> str:
    if stopping.stopping_reason == EarlyStoppingReason.NON_FINITE_METRIC:
        return f"early stopping: {stopping.monitor} is no finite number"
    if stopping.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
        return (
            f"early stopping: no better {stopping.monitor} in {stopping.patience} validations after "
            f"{stopping.counted_from}"
        )
    if settings.max_steps is not None and trainer.global_step >= settings.max_steps:
        return f"max_steps={settings.max_steps}"
    return f"max_epochs={settings.max_epochs}"
