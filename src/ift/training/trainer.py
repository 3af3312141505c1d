"""How long a run is, how often it validates, and why it ended: counted by us, in optimizer steps."""

from __future__ import annotations

import logging
import math
import warnings

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from ift.errors import DataError
from ift.settings import EarlyStoppingSettings, TrainerSettings

VALIDATIONS = 10  # in a run, where trainer.val_every is not set


def quiet_lightning() -> None:
    """Leave out Lightning's hints and notes on itself: what a person should know is said by us, once."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*treespec.*",
        ".*does not have many workers.*",
        ".*Checkpoint directory.*exists.*",
        ".*across ranks is zero.*",
    ):
        warnings.filterwarnings("ignore", message)


def total_steps(settings: TrainerSettings, steps_per_epoch: int) -> int:
    if steps_per_epoch == 0:
        raise DataError("data.drop_last=true: fewer training rows than one step takes (set it to false)")
    steps = settings.max_epochs * steps_per_epoch
    return min(steps, settings.max_steps) if settings.max_steps else steps


def val_every(settings: TrainerSettings, steps: int) -> int:
    """Optimizer steps between validations."""
    return settings.val_every or math.ceil(steps / VALIDATIONS)


def early_stopping(settings: EarlyStoppingSettings) -> EarlyStopping:
    return EarlyStopping(
        monitor="val/loss",
        patience=settings.patience or 10**9,
        min_delta=settings.min_delta,
        check_on_train_epoch_end=False,  # patience counts validations, not epochs
        verbose=False,
    )


def stop_reason(trainer: L.Trainer, settings: TrainerSettings, stopping: EarlyStopping) -> str:
    if stopping.stopping_reason == EarlyStoppingReason.NON_FINITE_METRIC:
        return "early stopping: val/loss is no finite number"
    if stopping.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
        return f"early stopping: no better val/loss in {stopping.patience} validations"
    if settings.max_steps is not None and trainer.global_step >= settings.max_steps:
        return f"max_steps={settings.max_steps}"
    return f"max_epochs={settings.max_epochs}"
