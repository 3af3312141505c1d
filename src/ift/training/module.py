"""The LightningModule: a GPT, the cross-entropy over supervised tokens, and an optimizer step that is exact.

The loss of a step is the sum over its supervised tokens divided by their count, over all its micro-batches and ranks.
So it is the same for batch 8, for 2 x 4 accumulated, and for 2 ranks of 4; validation loss likewise.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import SumMetric

from ift.data.batches import IGNORE_INDEX, Batch
from ift.errors import DivergedError
from ift.model.gpt import GPT
from ift.model.layouts import Flat
from ift.settings import OptimSettings
from ift.training.optim import clip_coefficient, make_optimizer, make_schedule
from ift.training.ranks import gather_rows

SUMS = ("loss", "correct", "targets")
LOADERS = ("val", "train")  # what validation measures; training rows only before the first step
TEST_LOADERS = ("test", "clean_test")  # the second: test rows without a near twin in training


@dataclass
class _Step:
    """An optimizer step that is done, or queued on a device."""

    number: int
    epoch: int
    lr: float
    rows: list[int]
    numbers: Callable[[], list[float]]  # loss summed, supervised tokens, tokens, gradient norm
    seconds: float = 0.0


def _sums() -> nn.ModuleDict:
    """Running sums in float64, from which mean loss, perplexity and token accuracy follow; logits are never kept."""
    # by default torchmetrics leaves NaN out of a sum: a broken model would then be the best one
    return nn.ModuleDict({name: SumMetric(nan_strategy="disable").set_dtype(torch.float64) for name in SUMS})


class SFTModule(L.LightningModule):
    """
    total_steps: optimizer steps of the whole run, which the schedule needs; counted by us, since reading
        trainer.estimated_stepping_batches drops the loader's state on resume (Lightning issue 20550)
    skip_nonfinite: so many steps whose loss or gradient is no finite number change nothing; the next ends the run
    """

    def __init__(self, model: GPT, *, optim: OptimSettings, total_steps: int, skip_nonfinite: int = 0):
        super().__init__()
        self.skip_nonfinite, self.skipped = skip_nonfinite, 0
        self.last_rows: list[int] = []  # of the step just taken, on this rank
        self.model = model
        self.optim, self.total_steps = optim, total_steps
        self.sums = nn.ModuleDict({f"{prefix}_sums": _sums() for prefix in LOADERS + TEST_LOADERS})
        self.tokens_seen = self.supervised_seen = 0
        self._window: list[tuple[Tensor, int, int]] = []  # loss, supervised tokens and tokens of each micro-batch
        self._window_rows: list[int] = []
        self._steps: deque[_Step] = deque()  # whose numbers have not been asked for
        self._step_started, self.last_loss = 0.0, math.nan

    # -- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if not self._window:
            self._step_started = time.perf_counter()
        loss, targets = self.loss_sum(batch)
        self._window.append((loss.detach(), targets, batch.tokens))
        self._window_rows += batch.rows
        # Lightning divides by the number of accumulated batches; the step is scaled by tokens instead, below
        return loss * self.trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """All gradients of the step are there, as sums: how the optimizer shall divide and clip them, in its own pass.

        A gradient that is no finite number is skipped by the optimizer itself, before anything here has looked at it.
        """
        losses, targets, tokens = zip(*self._window, strict=True)
        counts = torch.tensor([sum(targets), sum(tokens)], dtype=torch.float64, device=self.device)
        sums = torch.cat([torch.stack(losses).double().sum()[None], counts])
        sums = cast(Tensor, self.trainer.strategy.reduce(sums, reduce_op="sum"))
        world = self.trainer.world_size  # data-parallel training averages gradients over ranks: undo it
        scale = world / sums[1].clamp(min=1)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None]) * scale
        # what fused optimizers of torch divide gradients by, and whether they skip the step (made for loss scaling)
        optimizer.grad_scale = (1 / (scale * clip_coefficient(norm, self.optim.clip))).float()  # type: ignore[attr-defined]
        optimizer.found_inf = (~(norm + sums[0]).isfinite()).float()  # type: ignore[attr-defined]
        self._steps.append(
            _Step(
                number=self.trainer.global_step + 1,
                epoch=self.current_epoch,
                lr=optimizer.param_groups[0]["lr"],
                rows=self._window_rows,
                numbers=_read_later(torch.cat([sums, norm.double()[None]])),
            )
        )
        self._window, self._window_rows = [], []

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self._steps[-1].seconds = time.perf_counter() - self._step_started
        # a GPU is given the next step before the numbers of this one are asked for
        self.report_steps(leave=1 if self.device.type == "cuda" else 0)

    def on_validation_start(self) -> None:
        self.report_steps()

    def on_train_end(self) -> None:
        self.report_steps()

    def report_steps(self, leave: int = 0) -> None:
        """Ask for the numbers of steps that are queued yet, and log them; a step to be refused is refused here."""
        while len(self._steps) > leave:
            step = self._steps.popleft()
            loss_sum, targets, tokens, norm = step.numbers()
            self.last_rows = step.rows
            if not math.isfinite(loss_sum + norm):
                self._refuse(step, loss_sum, norm)
                continue
            self.tokens_seen += int(tokens)
            self.supervised_seen += int(targets)
            self.last_loss = loss_sum / max(1.0, targets)
            self.record(
                step.number,
                {
                    "epoch": step.epoch,
                    "train/loss": self.last_loss,
                    "lr": step.lr,
                    "grad_norm": norm,
                    "tokens_per_second": tokens / step.seconds,
                },
            )

    def _refuse(self, step: _Step, loss: float, norm: float) -> None:
        """A step that is no finite number, which the optimizer has left out: say so, or raise DivergedError."""
        found = gather_rows(self.trainer, step.rows)  # a sum over ranks does not say whose it was
        rows = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        number = f"gradient norm {norm:g}" if math.isfinite(loss) else f"loss {loss:g}"
        what = f"step {step.number}: {number} on rows {rows}"
        if self.skipped >= self.skip_nonfinite:
            raise DivergedError(f"{what} (lower optim.lr, or look at them)")
        self.skipped += 1
        self.record(step.number, {"epoch": step.epoch, "skipped": self.skipped})
        if self.trainer.is_global_zero:
            print(f"ift: {what}: left out ({self.skipped} of {self.skip_nonfinite})", flush=True)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the optimizer clips in its own pass, as it is told above."""

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.model, self.optim)
        return [optimizer], [{"scheduler": make_schedule(optimizer, self.optim, self.total_steps), "interval": "step"}]

    # -- loss and its measures ------------------------------------------------------------------------------------

    def loss_sum(self, batch: Batch, sums: nn.Module | None = None) -> tuple[Tensor, int]:
        """Cross-entropy summed over supervised tokens (fp32), and their count; adds to running sums if given.

        A padded batch goes the plain way. An unpadded one gives the same sum and the same gradient, up to rounding, and
        computes the head for supervised tokens only: others have no part in either, and in GPT-2 small the head is 31 %
        of the arithmetic and most of the memory.
        """
        if batch.lengths is None:
            logits, targets = self.model(batch.input_ids).flatten(0, 1).float(), batch.targets.flatten()
            loss = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
            correct = (logits.argmax(dim=-1) == targets).sum()
        else:
            supervised = batch.supervised  # (S,) of N tokens
            hidden = self.model.hidden(batch.input_ids, Flat(batch.lengths, batch.prefix), supervised)  # (S, C)
            loss, correct = self.model.loss(hidden, batch.targets[supervised])
        count = len(batch.supervised)
        if isinstance(sums, nn.ModuleDict):
            for name, value in zip(SUMS, (loss, correct, count), strict=True):
                cast(SumMetric, sums[name]).update(value)
        return loss, count

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss_sum(batch, self.sums[f"{LOADERS[dataloader_idx]}_sums"])

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss_sum(batch, self.sums[f"{TEST_LOADERS[dataloader_idx]}_sums"])

    def on_validation_epoch_end(self) -> None:
        self._report(*LOADERS)

    def on_test_epoch_end(self) -> None:
        self._report(*TEST_LOADERS)

    def _report(self, *prefixes: str) -> None:
        values: dict[str, float] = {}
        for prefix in prefixes:
            metrics = cast(list[SumMetric], list(cast(nn.ModuleDict, self.sums[f"{prefix}_sums"]).values()))
            if not metrics[0].update_called:
                continue
            loss, correct, targets = (metric.compute().item() for metric in metrics)  # summed over ranks
            for metric in metrics:
                metric.reset()
            mean = loss / max(1.0, targets)
            perplexity = math.exp(mean) if mean < 700 else math.inf
            values |= {
                f"{prefix}/loss": mean,
                f"{prefix}/perplexity": perplexity,
                f"{prefix}/accuracy": correct / max(1.0, targets),
            }
        self.log_dict(
            {key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()},
            logger=False,
            sync_dist=True,
        )
        self.record(self.trainer.global_step, values)

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
    done = torch.cuda.current_stream().record_event()

    def read() -> list[float]:
        done.synchronize()
        return there.tolist()

    return read
