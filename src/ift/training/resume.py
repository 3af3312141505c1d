"""A run that is stopped and goes on is the run that was never stopped, bit for bit.

A checkpoint is the state right after an optimizer step, before the validation that the step may call for. So a stop in
validation loses nothing: the resumed run validates first. Where the run stands in its rows follows from the number of
the step alone, since every epoch has the same number of steps and its order depends on (seed, epoch): Lightning's own
loop state, which counts batches that were fetched, is left out.
"""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ift import stops
from ift.errors import ConfigError, MachineError
from ift.launch import is_other_rank
from ift.sealed import step_folder
from ift.training.checkpoint import SealedCheckpointIO
from ift.training.clock import Clock
from ift.training.loops import begin_at, validate_now
from ift.training.metrics_file import MetricsFile
from ift.training.module import SFTModule
from ift.training.optim import set_rates
from ift.training.patience import Patience
from ift.training.ranks import agree, gather
from ift.training.writer import Writer


class Checkpoints(Callback):
    """Saves at each validation, every save_every steps and when a signal came; restores when a run is resumed.

    It comes last among the callbacks, so that it sees what the others made of a step.
    """

    def __init__(
        self,
        folder: Path,
        metrics: MetricsFile,
        *,
        about: dict[str, Any],
        steps: int,
        steps_per_epoch: int,
        val_every: int,
        save_every: int | None,
        restart_at: int | None = None,
        writer: Writer | None = None,
    ):
        """
        about: what the manifest says besides the step (the fingerprint of the data)
        val_every, save_every: optimizer steps; a step that validates is always saved
        restart_at: the step from which the run goes on longer; it validates too, as the end that it was
        writer: writes while training goes on, and counts its time; None: a save returns when it is on disk
        """
        self.folder, self.metrics, self.about = folder, metrics, about
        self.files = SealedCheckpointIO(metrics.flush, writer=writer, ended=self._saved)  # for the trainer's plugins
        self.clock = writer.clock if writer else Clock()
        self.steps, self.steps_per_epoch = steps, steps_per_epoch
        self.val_every, self.save_every = val_every, save_every or val_every
        self.restart_at = restart_at
        self.step = self.saved = 0
        self.failed: OSError | None = None  # of the last save that has ended
        self._random: dict[str, Tensor] | None = None

    # -- when ------------------------------------------------------------------------------------------------------

    def validates(self, step: int) -> bool:
        return step % self.val_every == 0 or step in (self.steps, self.restart_at)

    def on_train_batch_start(self, *args: Any) -> None:
        self.files.forget()

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step == self.step:  # inside a window of accumulation
            return
        self.step = trainer.global_step
        # of several ranks each says it with its numbers of a step, which on a GPU are read one step later: none waits
        stop = stops.received is not None if trainer.world_size == 1 else module.signalled
        if stop or self.validates(self.step) or self.step % self.save_every == 0:
            self.save(trainer)
        if stop:
            self.stop()

    def on_validation_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if agree(trainer, stops.received is not None):
            self.stop()

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.on_validation_batch_end(trainer)

    def save(self, trainer: L.Trainer) -> None:
        cast(SFTModule, trainer.lightning_module).report_steps()  # their numbers belong to the checkpoint
        with self.clock.spent("saving"):
            trainer.save_checkpoint(step_folder(self.folder, self.step))

    def _saved(self, step: int, error: OSError | None) -> None:
        """A save has ended, on the first rank or on all that wrote; it may be long behind."""
        self.failed = error
        if error is None:
            self.saved = step
        elif not is_other_rank():
            print(f"ift: {self._trouble(step)}: training goes on", flush=True)

    def stop(self) -> None:
        """Raises Stopped where the run can go on from this step, MachineError where its last save failed."""
        self.require_saved()
        raise stops.stopped(f"after step {self.step} of {self.steps}")

    def require_saved(self) -> None:
        self.files.wait()
        if self.failed is not None:
            raise MachineError(self._trouble(self.step))

    def _trouble(self, step: int) -> str:
        what = self.failed.strerror if self.failed else ""
        left = f"the one of step {self.saved} is whole" if self.saved else "there is none yet"
        return f"{self.folder}: step {step} cannot be saved: {what}; {left}"

    # -- what ------------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        del checkpoint["loops"]
        checkpoint["about"] = {**self.about, "step": self.step}
        checkpoint["run"] = {
            "step": self.step,
            "rows_a_step": rows_a_step(trainer),
            "steps_per_epoch": self.steps_per_epoch,
            "tokens_seen": module.tokens_seen,
            "supervised_seen": module.supervised_seen,
            "skipped": module.skipped,
            "last_loss": module.last_loss,
            "metrics": self.metrics.position(),
            "seconds": self.clock.train_seconds,
            "spent": self.clock.seconds,
        }
        checkpoint["random"] = {name: gather(trainer, state) for name, state in random_state().items()}

    def on_load_checkpoint(self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        run, begun = checkpoint["run"], len(checkpoint["random"]["python"])
        self._refuse_other_steps(trainer, run, begun)
        self.step = self.saved = run["step"]
        module.tokens_seen, module.supervised_seen = run["tokens_seen"], run["supervised_seen"]
        module.skipped, module.last_loss = run["skipped"], run["last_loss"]
        self.metrics.go_back(run["metrics"])
        # an earlier release knew the sum alone, most of which is steps
        self.clock.go_on(run.get("spent") or {"steps": run["seconds"]})
        states = checkpoint["random"]
        if trainer.global_rank < begun:
            self._random = {name: of_all[trainer.global_rank].clone() for name, of_all in states.items()}
        else:  # a rank that there was not before: a stream of its own, the same whenever the run goes on from here
            torch.manual_seed(int(states["torch"].long().sum()) * 1_000_003 + trainer.global_rank)
        self._begin(trainer)  # a sharded model is restored when the fit has started

    def _refuse_other_steps(self, trainer: L.Trainer, run: dict[str, Any], begun: int) -> None:
        """Raises ConfigError where other processes, or another number of them, would take other steps."""
        now, rows_now = trainer.world_size, rows_a_step(trainer)
        a_rank = rows_now // now
        rows = run.get("rows_a_step", begun * a_rank)  # an earlier release went on with the same settings alone
        if rows_now != rows:
            batch = rows_now // (now * trainer.accumulate_grad_batches)
            accumulate, rest = divmod(rows, batch * now)
            advice = f"go on with {begun}" if rest else f"trainer.accumulate={accumulate} takes the same steps"
            raise ConfigError(
                f"{self.folder}: a step of this run has {rows} rows on {begun} processes, and on {now} it would have "
                f"{rows_now} ({advice})"
            )
        if run.get("steps_per_epoch", self.steps_per_epoch) != self.steps_per_epoch:
            raise ConfigError(
                f"{self.folder}: an epoch had {run['steps_per_epoch']} steps, and has {self.steps_per_epoch} on {now} "
                f"processes: trainer.limit_train_batches counts those of each (go on with {begun})"
            )

    def on_fit_start(self, trainer: L.Trainer, module: Any) -> None:
        self._begin(trainer)

    def _begin(self, trainer: L.Trainer) -> None:
        """Begin Lightning's loops at the step, as if they had come there by themselves."""
        epoch, step = divmod(self.step, self.steps_per_epoch)
        trainer.datamodule.begin = (epoch, step)  # type: ignore[attr-defined]
        begin_at(trainer, epoch=epoch, step=self.step)

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.clock.train()
        if self._random is not None:  # here: loaders are there, and the first batch has not been asked for
            set_random_state(self._random)
        if self.step and self.step == self.restart_at:
            self._restart(trainer)
        if self.step and self.validates(self.step):  # due when the run was stopped
            validate_now(trainer)

    def _restart(self, trainer: L.Trainer) -> None:
        """The longer part begins here, the first time or again: with its own rate, and patience from here on."""
        for optimizer, config in zip(trainer.optimizers, trainer.lr_scheduler_configs, strict=True):
            set_rates(optimizer, cast(torch.optim.lr_scheduler.LambdaLR, config.scheduler))
        for callback in trainer.early_stopping_callbacks:
            if isinstance(callback, Patience):
                callback.begin_anew()


def rows_a_step(trainer: L.Trainer) -> int:
    return int(cast(Any, trainer).datamodule.batch_size * trainer.accumulate_grad_batches * trainer.world_size)


# -- random states --------------------------------------------------------------------------------------------------


def random_state() -> dict[str, Tensor]:
    """Of this process: Python's, numpy's, torch's, and that of its CUDA device if it uses one."""
    _, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = cast(Any, np.random.get_state())
    states = {
        "python": torch.tensor([*numbers, gauss is not None, _bits(gauss or 0.0)], dtype=torch.int64),
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss, _bits(cached)], dtype=torch.int64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_state(states: dict[str, Tensor]) -> None:
    *numbers, known, bits = states["python"].tolist()
    random.setstate((3, tuple(numbers), _float(bits) if known else None))
    *keys, position, has_gauss, bits = states["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, _float(bits)))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _bits(value: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


def _float(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])
