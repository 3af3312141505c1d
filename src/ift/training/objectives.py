"""What training makes smaller: an objective turns a batch into a sum, its weight, and measures.

Sums, not means: they add up over micro-batches and ranks, so a step is the same however its rows are cut up.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ift.data.batches import IGNORE_INDEX, Batch
from ift.model.gpt import GPT
from ift.model.layouts import PADDED, Flat, Padded, Tree


def layout_of(batch: Batch) -> Flat:
    """Of a batch without padding."""
    lengths = batch.lengths or []
    return Flat(lengths, batch.prefix) if batch.parents is None else Tree(lengths, batch.parents)


class Sums(NamedTuple):
    loss: Tensor  # () fp32, a sum, with its gradient
    weight: int  # what the sum is divided by; 0 for a blank batch
    measures: dict[str, Tensor]  # further sums of the same weight, () each, without a gradient


class Objective(Protocol):
    """Has no state of its own: everything it knows of is in the model and the batch."""

    measures: tuple[str, ...]  # names of the measures that every batch has

    def __call__(self, model: GPT, batch: Batch) -> Sums: ...

    def report(self, means: dict[str, float]) -> dict[str, float]:
        """Numbers for a person, from the means of the loss ("loss") and of each measure over a whole split."""
        ...


class CrossEntropy:
    """Cross-entropy of the supervised tokens. Weight: their count; measure: those that are the model's first choice.

    A padded batch goes the plain way. An unpadded one gives the same sum and the same gradient, up to rounding, and
    computes the head for supervised tokens only: others have no part in either, and in GPT-2 small the head is 31 %
    of the arithmetic and most of the memory.

    In training alone, so that the losses of validation and test stay plain cross-entropies:

    label_smoothing  share of each target that goes to all of the vocabulary alike
    neftune_alpha    noise on the embeddings (Jain et al. 2023, arXiv:2310.05914), see `neftune_noise`
    """

    measures: tuple[str, ...] = ("accuracy",)
    label_smoothing: float = 0.0
    neftune_alpha: float | None = None

    def __init__(self, *, label_smoothing: float = 0.0, neftune_alpha: float | None = None):
        self.label_smoothing, self.neftune_alpha = label_smoothing, neftune_alpha

    def __call__(self, model: GPT, batch: Batch) -> Sums:
        smoothing = self.label_smoothing if model.training else 0.0
        alpha = self.neftune_alpha if model.training else None
        noise = None if alpha is None else neftune_noise(batch, model.config.n_embd, alpha)
        if batch.lengths is None:
            hidden = model.hidden(batch.input_ids, self._padded(model, batch), noise=noise)
            logits = model.logits(hidden, every_id=True).flatten(0, 1).float()
            targets = batch.targets.flatten()
            loss = F.cross_entropy(
                logits, targets, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=smoothing
            )
            correct = (logits.argmax(dim=-1) == targets).sum()
        else:
            supervised = batch.supervised  # (S,) of N tokens
            layout = layout_of(batch)
            hidden = model.hidden(batch.input_ids, layout, supervised, noise)  # (S, C)
            loss, correct = model.loss(hidden, batch.targets[supervised], smoothing)
        return Sums(loss, len(batch.supervised), {"accuracy": correct})

    @staticmethod
    def _padded(model: GPT, batch: Batch) -> Padded:
        """A row with its padding may be on another side of longrope's border than the row itself."""
        return PADDED if model.config.border is None else Padded(torch.tensor(batch.row_tokens or [1]))

    def report(self, means: dict[str, float]) -> dict[str, float]:
        """Loss, perplexity and token accuracy."""
        loss = means["loss"]
        return {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "accuracy": means["accuracy"],
        }


def neftune_noise(batch: Batch, width: int, alpha: float) -> Tensor:
    """(..., C) uniform in plus and minus alpha / sqrt(L * C), L the tokens of a token's row, padding not among them.

    Drawn from the run's random state. Rows of a batch share no prefix then: each has noise of its own.
    """
    if batch.prefix or batch.parents:
        raise ValueError("rows that share a prefix would share its noise too")
    shape = (*batch.input_ids.shape, width)
    noise = torch.empty(shape, device=batch.input_ids.device).uniform_(-1, 1)
    lengths = torch.tensor(batch.row_tokens or [1])  # a blank batch has one token of no row
    scales = alpha / (lengths * width).sqrt()
    if batch.lengths is None:
        scales = scales[:, None, None]
    else:
        scales = scales.repeat_interleave(lengths, output_size=batch.input_ids.numel())[:, None]
    return noise * scales.to(noise.device, non_blocking=True)
