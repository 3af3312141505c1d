"""The LightningModule: a GPT, the cross-entropy over supervised tokens, and an optimizer step that is exact.

The loss of a step is the sum over its supervised tokens divided by their count, over all its micro-batches and ranks.
So it is the same for batch 8, for 2 x 4 accumulated, and for 2 ranks of 4; validation loss likewise.
"""

from __future__ import annotations

import math
import time
from typing import Any, cast

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import SumMetric

from ift.data.batches import IGNORE_INDEX, Batch
from ift.errors import DivergedError
from ift.model.gpt import GPT
from ift.settings import OptimSettings
from ift.training.optim import clip_coefficient, make_optimizer, make_schedule
from ift.training.ranks import gather_rows

SUMS = ("loss", "correct", "targets")
LOADERS = ("val", "train")  # what validation measures; training rows only before the first step
TEST_LOADERS = ("test", "clean_test")  # the second: test rows without a near twin in training


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
        self._window: list[Tensor] = []  # loss, supervised tokens and tokens of each micro-batch of this step
        self._window_rows: list[int] = []
        self._step_started, self.last_loss = 0.0, math.nan

    # -- training -------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if not self._window:
            self._step_started = time.perf_counter()
        loss, targets = self.loss_sum(batch)
        self._window.append(
            torch.stack([loss.detach().double(), targets.double(), targets.new_tensor(batch.tokens).double()])
        )
        self._window_rows += batch.rows
        # Lightning divides by the number of accumulated batches; the step is scaled by tokens instead, below
        return loss * self.trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """All gradients of the step are there, as sums: divide by the step's supervised tokens, clip, in one pass."""
        summed = self.trainer.strategy.reduce(torch.stack(self._window).sum(dim=0), reduce_op="sum")
        loss_sum, targets, tokens = summed.tolist()
        world = self.trainer.world_size  # data-parallel training averages gradients over ranks: undo it
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        scale = world / max(1.0, targets)
        norm = torch.nn.utils.get_total_norm(gradients).item() * scale
        if not (torch.isfinite(torch.tensor([loss_sum, norm])).all()):
            self._refuse(loss_sum, norm)  # raises, or leaves the optimizer nothing to do
            return
        torch._foreach_mul_(gradients, scale * clip_coefficient(norm, self.optim.clip))
        self.tokens_seen += int(tokens)
        self.supervised_seen += int(targets)
        seconds = time.perf_counter() - self._step_started
        self.record(
            self.trainer.global_step + 1,
            {
                "epoch": self.current_epoch,
                "train/loss": loss_sum / max(1.0, targets),
                "lr": optimizer.param_groups[0]["lr"],
                "grad_norm": norm,
                "tokens_per_second": tokens / seconds,
            },
        )
        self.last_loss = loss_sum / max(1.0, targets)
        self.last_rows, self._window, self._window_rows = self._window_rows, [], []

    def _refuse(self, loss: float, norm: float) -> None:
        """A step that is no finite number: drop its gradients, or raise DivergedError if too many were dropped."""
        found = gather_rows(self.trainer, self._window_rows)  # a sum over ranks does not say whose it was
        rows = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        step = self.trainer.global_step + 1
        what = (
            f"step {step}: {f'loss {loss:g}' if not math.isfinite(loss) else f'gradient norm {norm:g}'} on rows {rows}"
        )
        if self.skipped >= self.skip_nonfinite:
            raise DivergedError(f"{what} (lower optim.lr, or look at them)")
        self.skipped += 1
        self.zero_grad(set_to_none=True)  # AdamW leaves alone what has no gradient: moments and decay too
        self.last_rows, self._window, self._window_rows = self._window_rows, [], []
        self.record(step, {"epoch": self.current_epoch, "skipped": self.skipped})
        if self.trainer.is_global_zero:
            print(f"ift: {what}: left out ({self.skipped} of {self.skip_nonfinite})", flush=True)

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: clipped with the scaling above. (Lightning refuses its own with bf16 and fused AdamW.)"""

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.model, self.optim)
        return [optimizer], [{"scheduler": make_schedule(optimizer, self.optim, self.total_steps), "interval": "step"}]

    # -- loss and its measures ------------------------------------------------------------------------------------

    def loss_sum(self, batch: Batch, sums: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Cross-entropy summed over supervised tokens (fp32), and their count; adds to running sums if given.

        The head is computed for supervised positions only: others have no part in the loss or its gradient, and in
        GPT-2 small it is 31 % of the arithmetic and most of the memory.
        """
        supervised = batch.targets != IGNORE_INDEX  # (B, T), N of them
        targets = batch.targets[supervised]  # (N,)
        logits = self.model.lm_head(self.model.hidden(batch.input_ids)[supervised]).float()  # (N, V)
        loss = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
        count = supervised.sum()
        if isinstance(sums, nn.ModuleDict):
            correct = (logits.argmax(dim=-1) == targets).sum()
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
