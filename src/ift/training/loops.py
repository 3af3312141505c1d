"""All that is used of Lightning's private API, in one place: tests/training/test_loops.py names each part of it."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.loops.fit_loop import _FitLoop


class _Loop(_FitLoop):
    @property
    def skip(self) -> bool:
        """Never: a run that goes on behind its last step still has its last validation to do."""
        return False


class Trainer(L.Trainer):
    """Lightning's, without its signal handlers: they save in the middle of a step (Lightning issue 21406)."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        loop = _Loop(self, min_epochs=self.fit_loop.min_epochs, max_epochs=self.fit_loop.max_epochs)
        loop.epoch_loop = self.fit_loop.epoch_loop
        self.fit_loop = loop
        self._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
        # before each micro-batch ranks would ask the first whether it heard a signal, and a GPU be waited for
        loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def begin_at(trainer: L.Trainer, *, epoch: int, step: int) -> None:
    """Set the counters of the loops, as if they had come to this optimizer step of the run by themselves."""
    loop = trainer.fit_loop
    for progress, done in (
        (loop.epoch_progress.current, epoch),
        (loop.epoch_progress.total, epoch),
        (loop.epoch_loop.batch_progress.total, step * trainer.accumulate_grad_batches),
    ):
        vars(progress).update(ready=done, started=done, processed=done, completed=done)
    loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total.completed = step
    loop.epoch_loop._batches_that_stepped = step


def validate_now(trainer: L.Trainer) -> None:
    """The validation of the step that a run goes on from, inside of `fit`."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
