"""The LightningModule: a GPT, an objective, and an optimizer step that is exact.

The loss of a step is the sum over its supervised tokens divided by their count, over all its micro-batches and ranks.
So it is the same for batch 8, for 2 x 4 accumulated, and for 2 ranks of 4; validation loss likewise. What is summed,
and what it is divided by, is the objective's (ift.training.objectives).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import SumMetric

from ift import stops
from ift.data.batches import Batch
from ift.data.text_size import TextSize
from ift.errors import DivergedError, WeightsError
from ift.model.gpt import GPT
from ift.model.slices import whole
from ift.settings import OptimSettings
from ift.training.loss_scale import LEAST, LossScale
from ift.training.objectives import CrossEntropy, Objective, Sums
from ift.training.optim import clip_coefficient, make_schedule, scale_gradients
from ift.training.optimizers import make_optimizer
from ift.training.ranks import gather_rows, sum_gradients
from ift.training.sharded import Sharded

LOADERS = ("val", "train")  # what validation measures; training rows only before the first step
TEST_LOADERS = ("test", "clean_test")  # the second: test rows without a near twin in training


@dataclass(frozen=True)
class Step:
    """An optimizer step. On a GPU it may still be queued: then `read` waits for its numbers."""

    number: int
    epoch: int
    lr: float
    rows: list[int]  # of this rank
    started: float  # time.perf_counter() at its first micro-batch
    # loss summed, weight, supervised tokens, tokens, ranks that heard a signal, gradient norm; with loss scaling, what
    # the loss was multiplied by
    read: Callable[[], list[float]]


class SFTModule(L.LightningModule):
    """
    total_steps: optimizer steps of the whole run, which the schedule needs; counted by us, since reading
        trainer.estimated_stepping_batches drops the loader's state on resume (Lightning issue 20550)
    loss_scale: for products in fp16
    text_size: measures the text of a split, for bits per byte; called once for each. None: nothing is said of bytes
    skip_nonfinite: number of steps with a non-finite loss or gradient that are skipped; the next one ends the run
    """

    def __init__(
        self,
        model: GPT,
        *,
        optim: OptimSettings,
        total_steps: int,
        skip_nonfinite: int = 0,
        objective: Objective = CrossEntropy(),  # noqa: B008  it has no state
        loss_scale: LossScale | None = None,
        text_size: Callable[[str], TextSize] | None = None,
    ):
        super().__init__()
        self.loss_scale = loss_scale
        self.text_size = None if text_size is None else cache(text_size)
        self.model, self.objective = model, objective
        self.strict_loading = model.low_rank is None  # a checkpoint of an adapter has nothing of the base
        self.optim, self.total_steps = optim, total_steps
        self.skip_nonfinite, self.skipped = skip_nonfinite, 0
        self.sums = nn.ModuleDict({f"{name}_sums": self._running_sums() for name in LOADERS + TEST_LOADERS})
        self.tokens_seen = self.supervised_seen = 0
        self.last_loss = math.nan
        self.signalled = False  # whether a rank had heard a signal at a step whose numbers were read
        self.step_listeners: list[Callable[[int, float, list[int]], None]] = []  # get number, loss and rows of a step
        self._window: list[tuple[Tensor, int, int, int]] = []  # loss, weight, supervised, tokens of each micro-batch
        self._window_rows: list[int] = []
        self._window_started = self._known_at = 0.0
        self._steps: deque[Step] = deque()  # whose numbers have not been read

    def configure_model(self) -> None:
        """Lightning calls it before each of fit, validate and test, when the ranks have met."""
        if isinstance(self.trainer.strategy, Sharded):
            self.trainer.strategy.shard(self.model)

    # -- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if not self._window:
            self._window_started = time.perf_counter()
        if isinstance(strategy := self.trainer.strategy, Sharded):
            strategy.before_backward(self.model, last=len(self._window) + 1 == self.trainer.accumulate_grad_batches)
        loss, weight, _ = self.objective(self.model, batch)
        self._window.append((loss.detach(), weight, len(batch.supervised), batch.tokens))
        self._window_rows += batch.rows
        # Lightning divides by the number of accumulated batches; the step is divided by its weight instead, below
        loss = loss * self.trainer.accumulate_grad_batches
        return loss if self.loss_scale is None else loss * self.loss_scale.on(loss.device)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """All gradients of the step are there, as sums: divide them by the weight of the step, and clip them.

        A step whose loss or gradient is no finite number is left out; nothing waits here to learn whether it is.
        """
        sums = self._sum_over_ranks()
        scaled = [] if self.loss_scale is None else [self.loss_scale.on(sums.device).double()[None]]  # before it moves
        norm = self._scale_gradients(optimizer, sums)
        self._steps.append(
            Step(
                number=self.trainer.global_step + 1,
                epoch=self.current_epoch,
                lr=max(group["lr"] for group in optimizer.param_groups),
                rows=self._window_rows,
                started=self._window_started,
                read=_read_later(torch.cat([sums, norm.double()[None], *scaled])),
            )
        )
        self._window, self._window_rows = [], []

    def _sum_over_ranks(self) -> Tensor:
        """(5,) float64 of the whole step: loss, weight, supervised tokens, tokens, ranks that heard a signal."""
        losses, *counts = zip(*self._window, strict=True)
        numbers = [*(sum(each) for each in counts), stops.received is not None]
        here = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        here = torch.cat([torch.stack(losses).double().sum()[None], here])
        return cast(Tensor, self.trainer.strategy.reduce(here, reduce_op="sum"))

    def _scale_gradients(self, optimizer: torch.optim.Optimizer, sums: Tensor) -> Tensor:
        """Turn summed gradients into those of the mean, clipped; returns their norm before clipping."""
        loss, weight = sums[:2]
        scale = 1 / weight.clamp(min=1)
        if self.loss_scale is not None:
            scale = scale / self.loss_scale.on(scale.device)
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is not None and parameter.grad.is_sparse:  # of tied embeddings without a loss of the head
                parameter.grad = parameter.grad.to_dense()
        sum_gradients(self.trainer, trained)
        norm = whole(torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])) * scale
        factor = scale * clip_coefficient(norm, self.optim.clip)
        scale_gradients(optimizer, factor, finite=(norm + loss).isfinite())
        if self.loss_scale is not None:
            self.loss_scale.update(norm.isfinite())
        return norm

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.report_steps(leave=self.steps_behind)

    @property
    def steps_behind(self) -> int:
        """Steps whose numbers are not waited for: a GPU is given the next step first."""
        return 1 if self.device.type == "cuda" else 0

    def on_validation_start(self) -> None:
        self.report_steps()

    def on_train_end(self) -> None:
        self.report_steps()

    def report_steps(self, leave: int = 0) -> None:
        """Read the numbers of all steps but the last `leave`, and log them. Every rank calls it at the same places.

        Raises DivergedError where too many steps were no finite number.
        """
        while len(self._steps) > leave:
            step = self._steps.popleft()
            loss_sum, weight, supervised, tokens, signals, norm, *scaled = step.read()
            self.signalled = self.signalled or signals > 0
            scale = {"loss_scale": scaled[0]} if scaled else {}
            # queueing takes no time: a step lasts from when the one before was done, or from its own start, until now
            before, self._known_at = self._known_at, time.perf_counter()
            seconds = self._known_at - max(before, step.started)
            if scaled and math.isfinite(loss_sum) and not math.isfinite(norm) and scaled[0] > LEAST:
                # the gradients overflowed and not the loss: the step was left out, and the next one is scaled less
                self.record(step.number, {"epoch": step.epoch, "train/loss": loss_sum / max(1.0, weight), **scale})
                continue
            if not math.isfinite(loss_sum + norm):
                self._refuse(step, loss_sum, norm)
                continue
            self.tokens_seen += int(tokens)
            self.supervised_seen += int(supervised)
            self.last_loss = loss_sum / max(1.0, weight)
            self.record(
                step.number,
                {
                    "epoch": step.epoch,
                    "train/loss": self.last_loss,
                    "lr": step.lr,
                    "grad_norm": norm,
                    **scale,
                    "tokens_per_second": tokens / seconds,
                },
            )
            for listener in self.step_listeners:
                listener(step.number, self.last_loss, step.rows)

    def _refuse(self, step: Step, loss: float, norm: float) -> None:
        """A step that is no finite number, which was left out: print its rows, or raise DivergedError."""
        all_rows = gather_rows(self.trainer, step.rows)  # a sum over ranks does not say whose it was
        rows = ", ".join(map(str, all_rows[:8])) + (", ..." if len(all_rows) > 8 else "")
        number = f"gradient norm {norm:g}" if math.isfinite(loss) else f"loss {loss:g}"
        what = f"step {step.number}: {number} on rows {rows}"
        if self.skipped >= self.skip_nonfinite:
            raise DivergedError(f"{what} (lower optim.lr, or look at them)")
        self.skipped += 1
        self.record(step.number, {"epoch": step.epoch, "skipped": self.skipped})
        if self.trainer.is_global_zero:
            print(f"ift: {what}: left out ({self.skipped} of {self.skip_nonfinite})", flush=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self.kept(checkpoint["state_dict"])
        if self.loss_scale is not None:
            checkpoint["loss_scale"] = self.loss_scale.state_dict()

    def kept(self, state: dict[str, Any]) -> dict[str, Any]:
        """What a checkpoint has of a state_dict: all, and of an adapter all but what is frozen."""
        if self.model.low_rank is None:
            return state
        named = self.model.named_parameters(remove_duplicate=False)  # a tied head has two names
        frozen = {f"model.{name}" for name, parameter in named if not parameter.requires_grad}
        return {name: value for name, value in state.items() if name not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises WeightsError for a checkpoint of another model or adapter."""
        if set(checkpoint["state_dict"]) != set(self.kept(self.state_dict())):
            raise WeightsError(
                "the checkpoint holds other weights than the settings mean (go on with the settings of its run)"
            )
        if self.loss_scale is not None:
            self.loss_scale.load_state_dict(checkpoint["loss_scale"])

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: gradients are clipped where they are divided."""

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.model, self.optim)
        return [optimizer], [{"scheduler": make_schedule(optimizer, self.optim, self.total_steps), "interval": "step"}]

    # -- validation and test --------------------------------------------------------------------------------------

    def _running_sums(self) -> nn.ModuleDict:
        """In float64: the loss, its weight and the measures of a whole split. Logits are never kept."""
        names = ("loss", "weight", *self.objective.measures)
        # by default torchmetrics leaves NaN out of a sum: a broken model would then be the best one
        return nn.ModuleDict({name: SumMetric(nan_strategy="disable").set_dtype(torch.float64) for name in names})

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._add(LOADERS[dataloader_idx], self.objective(self.model, batch))

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._add(TEST_LOADERS[dataloader_idx], self.objective(self.model, batch))

    def _add(self, split: str, sums: Sums) -> None:
        for name, value in {"loss": sums.loss, "weight": sums.weight, **sums.measures}.items():
            cast(Any, self.sums[f"{split}_sums"])[name].update(value)

    def on_validation_epoch_end(self) -> None:
        self._report(*LOADERS)

    def on_test_epoch_end(self) -> None:
        self._report(*TEST_LOADERS)

    def _report(self, *splits: str) -> None:
        values: dict[str, float] = {}
        for split in splits:
            running = cast(dict[str, SumMetric], self.sums[f"{split}_sums"])
            if not running["loss"].update_called:
                continue
            totals = {name: metric.compute().item() for name, metric in running.items()}  # over all ranks
            for metric in running.values():
                metric.reset()
            tokens = totals.pop("weight")
            weight = max(1.0, tokens)
            means = self.objective.report({name: total / weight for name, total in totals.items()})
            means |= self._bits_per_byte(split, means["loss"], tokens)
            values |= {f"{split}/{name}": mean for name, mean in means.items()}
        # every rank has the same values: nothing is left to be reduced
        tensors = {key: torch.tensor(value, dtype=torch.float64, device=self.device) for key, value in values.items()}
        if "train/loss" not in values and not math.isnan(self.last_loss):  # for trainer.monitor: of the step before
            tensors["train/loss"] = torch.tensor(self.last_loss, dtype=torch.float64, device=self.device)
        self.log_dict(tensors, logger=False)
        self.record(self.trainer.global_step, values)

    def _bits_per_byte(self, split: str, loss: float, tokens: float) -> dict[str, float]:
        """Nothing where not all tokens of the split were measured, or where they have no text."""
        if self.text_size is None or split == "train":
            return {}
        size = self.text_size(split)
        return {"bits_per_byte": size.bits_per_byte(loss)} if size.bytes and size.tokens == tokens else {}

    def record(self, step: int, values: dict[str, Any]) -> None:
        """One place where numbers leave for the loggers: with the step and all tokens seen so far."""
        counts = {"tokens": self.tokens_seen, "supervised_tokens": self.supervised_seen}
        for logger in self.loggers:
            logger.log_metrics({**counts, **values}, step=step)


def _read_later(numbers: Tensor) -> Callable[[], list[float]]:
    """Something that gives the numbers when called; on a GPU it waits for them alone, not for what is queued since."""
    if not numbers.is_cuda:
        return numbers.tolist
    there = numbers.to("cpu", non_blocking=True)
    done = torch.cuda.current_stream(numbers.device).record_event()

    def read() -> list[float]:
        done.synchronize()
        return there.tolist()

    return read
