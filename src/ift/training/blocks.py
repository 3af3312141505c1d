"""A model made ready for training; how it runs the blocks, where not plainly: with less kept, or compiled."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ift.model.adapters import adapted, hold_base_in
from ift.model.freezing import freeze
from ift.model.gpt import GPT, Block, RunBlock, plainly
from ift.model.layouts import PADDED, Layout, Padded
from ift.model.linear import compute_in
from ift.model.low_rank import LowRank
from ift.settings import ModelSettings, Settings


def make_ready(
    model: GPT, settings: Settings, low_rank: LowRank | None, dtype: torch.dtype, ends: GPT | None = None
) -> None:
    """Give a model what its settings mean for training: adapters, the type of products, what is frozen, its blocks.

    ends: has the embedding and the head of a model that is on the meta device
    """
    if low_rank is not None:
        adapted(model, low_rank, ends)
        hold_base_in(model, dtype)
    compute_in(model, dtype)
    freeze(model, settings.model.freeze)
    set_up_blocks(model, settings.model)


def set_up_blocks(model: GPT, settings: ModelSettings) -> None:
    """Without gradients, in validation and answers, blocks always run plainly."""
    run = compiled() if settings.compile else plainly
    model.run_block = checkpointed(run) if settings.activation_checkpointing else run


def checkpointed(run: RunBlock) -> RunBlock:
    """Keep the input of a block alone, and compute the rest again in the backward (Chen et al. 2016, arXiv:1604.06174).

    The same loss and gradient, dropout included: its random state is kept too.
    """

    def run_block(block: Block, x: Tensor, layout: Layout, places: Tensor | None) -> Tensor:
        if not torch.is_grad_enabled():
            return plainly(block, x, layout, places)
        y: Tensor = checkpoint(run, block, x, layout, places, use_reentrant=False)
        return y

    return run_block


def compiled(backend: str = "inductor") -> RunBlock:
    """Padded rows through torch.compile; blocks share what is compiled. It rounds and drops units in its own way."""

    def padded(block: Block, x: Tensor, lengths: Tensor | None) -> Tensor:
        return plainly(block, x, PADDED if lengths is None else Padded(lengths), None)

    fast = torch.compile(padded, backend=backend)

    def run_block(block: Block, x: Tensor, layout: Layout, places: Tensor | None) -> Tensor:
        if isinstance(layout, Padded) and places is None and torch.is_grad_enabled():
            return fast(block, x, layout.lengths)
        return plainly(block, x, layout, places)

    return run_block
