"""Tensors of which each of several ranks has some rows (torch's DTensor, as training/sharded.py makes them).

Any other tensor is whole, and these give it back as it is. Nothing is imported for them: torch takes a second for that.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:  # weights are checked by programs that do without torch
    from torch import Tensor


def is_slice(tensor: Any) -> TypeGuard[Any]:
    """Whether this rank has some rows of it alone."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All rows, on every rank; all ranks ask for them, or each waits."""
    return tensor.full_tensor() if is_slice(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """The rows that this rank has, in the same memory."""
    return tensor.to_local() if is_slice(tensor) else tensor


def first_row(tensor: Tensor) -> int:
    """The row that this rank's begin at: FSDP2 gives each rank as many, the last ones fewer or none."""
    if not is_slice(tensor):
        return 0
    (dim,) = (i for i, placement in enumerate(tensor.placements) if placement.is_shard())
    rows, ranks, rank = len(tensor), tensor.device_mesh.size(dim), tensor.device_mesh.get_coordinate()[dim]
    return int(min(rows, rank * -(-rows // ranks)))


def fill(tensor: Tensor, rows: Tensor) -> None:
    """Put a whole tensor into one, or into the slice that this rank has of it."""
    mine, first = local(tensor), first_row(tensor)
    mine.copy_(rows[first : first + len(mine)])


def least(number: int, model: Any) -> int:
    """The least of all ranks' numbers where they compute a model together, and each must do as the others."""
    if not hasattr(model, "set_requires_gradient_sync"):
        return number
    import torch

    numbers = torch.tensor(number, device=model.device)
    torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MIN)
    return int(numbers)
