"""What the processes of one run share. Every rank calls these at the same places; one alone waits for nobody."""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor


def agree(trainer: L.Trainer, flag: bool) -> bool:
    """Whether the flag is up on any rank."""
    return flag if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(flag, all=False)


def gather(trainer: L.Trainer, tensor: Tensor) -> Tensor:
    """(world, *shape): a tensor that has the same shape on every rank."""
    if trainer.world_size == 1:
        return tensor[None]
    here = tensor.to(trainer.strategy.root_device)
    of_all = [torch.empty_like(here) for _ in range(trainer.world_size)]
    torch.distributed.all_gather(of_all, here)
    return torch.stack(of_all).cpu()


def gather_rows(trainer: L.Trainer, rows: list[int]) -> list[int]:
    """The rows of all ranks, which may have some more than others."""
    longest = int(gather(trainer, torch.tensor(len(rows))).max())
    padded = torch.tensor(rows + [-1] * (longest - len(rows)), dtype=torch.int64)
    return [row for row in gather(trainer, padded).flatten().tolist() if row >= 0]
