"""Beside the training loop: keep the best model, answer sample prompts, show progress, validate at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ift import stops
from ift.artifacts.model_folder import save_model_folder
from ift.errors import DivergedError, MachineError, WeightsError, advice_start, one_line, refused_by_disk
from ift.model.gpt import GPT
from ift.model.slices import local
from ift.run import read_jsonl, write_jsonl
from ift.sealed import check, recover_folder, set_aside
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer
from ift.training.clock import Clock
from ift.training.loggers import Wandb
from ift.training.monitor import monitored
from ift.training.ranks import agree
from ift.training.sharded import answering, is_sharded, the_first_writes
from ift.training.writer import Writer


class ValidateAtTheEnd(Callback):
    """Ask Lightning to stop at the last step: it then validates first, so the last steps can be the best ones."""

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True


class KeepBest(Callback):
    """`model/` is always the best model so far, the untuned one included; without validation, the last.

    monitor: by which number it is the best; its own val/loss is known whatever that is
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Tokenizer,
        template: Template,
        about: dict[str, Any] | None = None,
        monitor: str = "val/loss",
        writer: Writer | None = None,
    ):
        """writer: writes the folder while training goes on; None: it is there before training does."""
        self.path, self.tokenizer, self.template, self.about = path, tokenizer, template, about or {}
        self.monitor = monitor
        self.best_loss, self.best_step = math.inf, 0
        self.best_score = math.inf  # less is better
        self.writer = writer
        self._writing: Writing | None = None

    @property
    def val_loss(self) -> float | None:
        """Of the best model; None without validation rows."""
        return None if self.best_loss == math.inf else self.best_loss

    def state_dict(self) -> dict[str, Any]:
        return {"best_loss": self.best_loss, "best_step": self.best_step, "best_score": self.best_score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_loss, self.best_step = state["best_loss"], state["best_step"]
        self.best_score = state.get("best_score", self.best_loss)  # an earlier release knew the loss alone
        self._look()

    @rank_zero_only
    def _look(self) -> None:
        """The folder's manifest wins over the checkpoint: the folder may be newer, or lost since."""
        recover_folder(self.path)
        if self.best_loss == math.inf and not self.path.exists():
            return
        try:
            about = check(self.path).about
        except WeightsError as error:
            if self.path.exists():
                set_aside(self.path)
            print(f"ift: {one_line(str(error), 120)}: the best model from here on is kept", flush=True)
            self.best_loss, self.best_step, self.best_score = math.inf, 0, math.inf
            return
        if about.get("val_loss") is not None:
            self.best_loss, self.best_step = about["val_loss"], about["step"]
            self.best_score = about.get("score", self.best_loss)

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Raises DivergedError, on every rank, where the loss is no finite number."""
        self.settle(trainer)
        measured = trainer.callback_metrics.get("val/loss")
        if measured is None:  # no validation rows: the untuned model is measured on training rows alone
            return
        loss = float(measured)
        if not math.isfinite(loss):
            step = trainer.global_step
            advice = "lower optim.lr" if step else "are its weights whole? trainer.precision=fp32 may help"
            raise DivergedError(
                f"step {step}: val/loss is {loss:g}{'' if step else ' of the untuned model'} ({advice})"
            )
        score = monitored(trainer, self.monitor)
        if agree(trainer, trainer.is_global_zero and score < self.best_score):  # rank 0 knows what is in the folder
            self.keep(trainer, module, loss, score)

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.settle(trainer)  # a disk that has no room for the untuned model has none for a run

    def on_train_end(self, trainer: L.Trainer, module: Any) -> None:
        self.settle(trainer)
        if agree(trainer, trainer.is_global_zero and self.best_loss == math.inf):  # no validation rows
            finite = all(bool(local(parameter).isfinite().all()) for parameter in module.model.parameters())
            if agree(trainer, not finite):
                raise DivergedError(f"step {trainer.global_step}: weights are no finite numbers (lower optim.lr)")
            self.keep(trainer, module, math.inf)
            self.settle(trainer)

    @contextmanager
    def named_where_diverged(self) -> Iterator[None]:
        """Around training: the line of a DivergedError says what is left in `model/`."""
        try:
            yield
        except DivergedError as error:
            self._await()
            loss = self.val_loss
            if loss is None:
                left = f"{self.path} holds no model of this run"
            else:
                what = "the untuned model" if self.best_step == 0 else f"the best model, of step {self.best_step}"
                left = f"{self.path} holds {what} (validation loss {loss:.3f})"
            line = str(error)
            start = advice_start(line)
            raise DivergedError(f"{line[:start]}; {left}{line[start:]}") from error

    def keep(self, trainer: L.Trainer, module: Any, loss: float, score: float = math.inf) -> None:
        """Rank 0 writes the folder, or begins to. It counts as kept until `settle` learns that it could not be."""
        step = trainer.global_step
        about = {**self.about, "step": step, "val_loss": None if loss == math.inf else loss}
        if self.monitor != "val/loss" and score != math.inf:
            about["score"] = score
        before = (self.best_loss, self.best_step, self.best_score)
        model, job = module.model, None
        if is_sharded(model):  # all ranks give their slices, so none goes on before it is written
            job = self._write_together(trainer, model, about)
        elif trainer.is_global_zero:
            job = self._write(model, about)
        self._writing = Writing(step, before, job)
        self.best_loss, self.best_step, self.best_score = loss, step, score
        if self.writer is None or is_sharded(model):
            self.settle(trainer)

    def _write_together(self, trainer: L.Trainer, model: GPT, about: dict[str, Any]) -> Future[None]:
        """The folder of a model that ranks share is there when this returns, or its error is."""
        done: Future[None] = Future()
        error = the_first_writes(
            trainer,
            model,
            lambda weights: save_model_folder(self.path, model, self.tokenizer, self.template, about, weights),
        )
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
        return done

    def _write(self, model: GPT, about: dict[str, Any]) -> Future[None]:
        """A copy of the model is written behind us; where there is no memory for one, the model itself, at once."""
        clock = nullcontext() if self.writer is None else self.writer.clock.spent("saving")
        with clock:
            copied = None if self.writer is None else self.writer.copied_model(model, about["step"])
            if self.writer is not None and copied is not None:
                return self.writer.write(partial(self._save, copied, about))
            if self.writer is not None:
                self.writer.wait()
            done: Future[None] = Future()
            try:
                self._save(model, about)
                done.set_result(None)
            except Exception as error:
                done.set_exception(error)
            return done

    def _save(self, model: GPT, about: dict[str, Any]) -> None:
        save_model_folder(self.path, model, self.tokenizer, self.template, about)

    def settle(self, trainer: L.Trainer) -> None:
        """Wait for the folder that is being written. Every rank calls it at the same places.

        Where it could not be written and there is no later try, every rank raises: none waits for another.
        """
        if self._writing is None:
            return
        writing, error = self._writing, self._await()
        if not agree(trainer, error is not None):
            return
        self.best_loss, self.best_step, self.best_score = writing.before
        # a full disk is no end while the one before is whole: a later one that is better is tried again
        can_wait = isinstance(error, OSError) and self.path.exists() and writing.step < trainer.max_steps
        if agree(trainer, error is not None and not can_wait):
            raise error or MachineError(f"{self.path}: the first process could not write the model (see what it said)")
        if isinstance(error, OSError):
            print(f"ift: {refused_by_disk(error, str(self.path))}: training goes on", flush=True)

    def _await(self) -> BaseException | None:
        """Why the folder could not be written, on rank 0; then the one before is the best again."""
        if self._writing is None:
            return None
        writing, self._writing = self._writing, None
        if writing.job is None:
            return None
        with nullcontext() if self.writer is None else self.writer.clock.spent("waiting"):
            error = writing.job.exception()
        if error is not None:
            self.best_loss, self.best_step, self.best_score = writing.before
        return error


@dataclass(frozen=True)
class Writing:
    """The model folder of a step on its way to the disk."""

    step: int
    before: tuple[float, int, float]  # loss, step and score of the best model before it
    job: Future[None] | None  # None on ranks other than the first


class Samples(Callback):
    """The same prompts answered at every validation, the untuned model's answers first: samples.jsonl and W&B.

    answer: gives a model's responses to the sample rows, in order, as dicts.
    """

    def __init__(self, path: Path, answer: Callable[[GPT], list[dict[str, Any]]], clock: Clock | None = None):
        self.path, self.answer, self.clock = path, answer, clock or Clock()
        self.samples: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"samples": len(self.samples)}

    @rank_zero_only
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.samples = read_jsonl(self.path)[: state["samples"]] if self.path.exists() else []

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Rank 0 answers, or all ranks where they share the model. What fails there ends all: none waits for it."""
        error: Exception | None = None
        with self.clock.spent("samples"), answering(trainer, module.model) as answers:
            if answers:
                try:
                    self._answer(trainer, module.model)
                except Exception as failure:
                    error = failure
            failed = agree(trainer, error is not None)
        if failed:
            raise error or MachineError("the first process could not answer the sample rows (see its error)")

    def _answer(self, trainer: L.Trainer, model: GPT) -> None:
        with stops.held() if trainer.world_size > 1 else nullcontext():  # the other ranks are not here
            answers = self.answer(model)
        if not trainer.is_global_zero:
            return
        new = [{"step": trainer.global_step, **response} for response in answers]
        self.samples += new
        try:
            write_jsonl(self.path, self.samples)
        except OSError as error:  # the whole file is written again at the next validation
            print(f"ift: {refused_by_disk(error, str(self.path))}: training goes on", flush=True)
        for logger in trainer.loggers:
            if isinstance(logger, Wandb):
                logger.log_samples(new)


class Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.fields.get('speed', 0):,.0f} tok/s", style="cyan")


class ShowProgress(Callback):
    """Steps, loss, tokens per second and time left: a bar in a terminal, a line at every validation elsewhere."""

    def __init__(self, total_steps: int, every: int | None = None):
        """every: steps between lines where there are no validation rows."""
        self.total_steps, self.every = total_steps, every
        self.console = Console()
        self.bar: Progress | None = None
        self.started = self.tokens_before = self.shown = 0.0
        self.first_step = self.step = 0

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        self.started, self.tokens_before = time.perf_counter(), module.tokens_seen
        self.first_step = self.step = trainer.global_step
        if self.console.is_terminal:
            self.bar = Progress(
                TextColumn("training"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} steps  loss {task.fields[loss]}  val {task.fields[val]} "),
                Speed(),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("", total=self.total_steps, loss="-", val=self._val(trainer), speed=0.0)
            self.bar.start()

    def _val(self, trainer: L.Trainer) -> str:
        loss = trainer.callback_metrics.get("val/loss")
        return "-" if loss is None else f"{float(loss):.3f}"

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        self._advance(trainer, module)
        step, before = trainer.global_step, self.step
        self.step = step
        if step == before or any(trainer.num_val_batches):  # a validation prints its own line
            return
        if (self.every and step % self.every == 0) or step == self.total_steps:
            module.report_steps()  # on every rank, since it may gather; on a GPU the loss of this step is not here yet
            self._print_line(trainer, module)

    @rank_zero_only
    def _advance(self, trainer: L.Trainer, module: Any) -> None:
        now = time.perf_counter()
        if self.bar is None or now - self.shown < 0.2:
            return
        self.shown = now
        self.bar.update(
            self.task,
            completed=trainer.global_step,
            loss=f"{module.last_loss:.3f}",
            speed=(module.tokens_seen - self.tokens_before) / (now - self.started),
        )

    @rank_zero_only
    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        step, val = trainer.global_step, self._val(trainer)
        if self.bar is not None:
            self.bar.update(self.task, completed=step, val=val)
        if step == 0 and trainer.state.fn != "fit":
            what = f"validation loss {val}"
            if val == "-":
                loss = trainer.callback_metrics.get("train/loss")
                what = "no validation rows" + ("" if loss is None else f"; loss on training rows {float(loss):.3f}")
            self.console.print(f"step 0    the untuned model: {what}", highlight=False, soft_wrap=True)
        elif self.started:
            self._print_line(trainer, module)

    @rank_zero_only
    def _print_line(self, trainer: L.Trainer, module: Any) -> None:
        step, val = trainer.global_step, self._val(trainer)
        seconds = time.perf_counter() - self.started
        speed = (module.tokens_seen - self.tokens_before) / seconds
        left = seconds / max(1, step - self.first_step) * (self.total_steps - step)
        accuracy = trainer.callback_metrics.get("val/accuracy")  # other objectives measure other things
        measured = "" if accuracy is None else f" (token accuracy {float(accuracy):.1%})"
        validation = "" if val == "-" else f"  validation {val}{measured}"
        self.console.print(
            f"step {step:<5}of {self.total_steps}  train {module.last_loss:.3f}{validation}"
            f"  {speed:,.0f} tok/s  {left:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )

    def teardown(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if self.bar is not None and stage == "fit":
            self.bar.update(self.task, completed=trainer.global_step)
            self.bar.stop()
            self.bar = None
