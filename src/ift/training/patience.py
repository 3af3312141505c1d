"""Early stopping that says from which validation it counted."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason


class Patience(EarlyStopping):
    """Lightning's early stopping. The first validation after training began sets the mark, the untuned model's never.

    So a training that makes the model worse before it makes it better is given its time: with a patience of 3 the
    earliest end is at the fourth validation.
    """

    best_step: int | None = None  # of the validation that the ones without a better loss are counted from

    @property
    def state_key(self) -> str:
        """Lightning's own, by which checkpoints of earlier releases name it."""
        return super().state_key.replace(type(self).__qualname__, EarlyStopping.__qualname__, 1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best_step": self.best_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.best_step = state_dict.get("best_step")  # earlier releases did not keep it

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        before = self.best_score
        super().on_validation_end(trainer, pl_module)
        if self.best_score is not before:
            self.best_step = trainer.global_step

    def begin_anew(self) -> None:
        """For a run that goes on longer: the next validation sets the mark."""
        self.wait_count, self.best_score, self.best_step = 0, torch.tensor(torch.inf), None
        self.stopping_reason, self.stopping_reason_message = EarlyStoppingReason.NOT_STOPPED, None

    @property
    def counted_from(self) -> str:
        return "the best one" if self.best_step is None else f"step {self.best_step}"
