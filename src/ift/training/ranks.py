"""What the processes of one run share. Every rank calls these at the same places; one alone waits for nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from ift import meeting
from ift.launch import here


class Launched(ClusterEnvironment):
    """Lightning's view of what a launcher of ours started: it starts no process itself."""

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR") or meeting.address()[0]

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT") or meeting.address()[1])

    @staticmethod
    def detect() -> bool:
        return here().external

    def world_size(self) -> int:
        return here().world

    def set_world_size(self, size: int) -> None:
        """Nothing: the launcher says it."""

    def global_rank(self) -> int:
        return here().rank

    def set_global_rank(self, rank: int) -> None:
        """Nothing: the launcher says it."""

    def local_rank(self) -> int:
        return here().local_rank

    def node_rank(self) -> int:
        return here().node_rank


def environment() -> ClusterEnvironment:
    """Where the ranks of this start come from. Lightning itself would guess, from one variable of SLURM's alone."""
    return Launched() if Launched.detect() else LightningEnvironment()


class DataParallel(DDPStrategy):
    """Every rank has the whole model, and `sum_gradients` adds gradients up once a step.

    Without torch's DistributedDataParallel: that arranges its buckets anew after its first backward, so the first step
    after a start adds in another order than the same step of a run that was never stopped (seen from three ranks on;
    two numbers have one sum in either order).
    """

    def configure_ddp(self) -> None:
        """Begin with the first rank's weights on all ranks, as DistributedDataParallel would."""
        assert self.model is not None
        for tensor in self.model.state_dict().values():
            torch.distributed.broadcast(tensor, 0)


BUCKET = 64 << 20  # bytes of gradients that are added up at once; two buckets exist beside the gradients


def sum_gradients(trainer: L.Trainer, parameters: Sequence[nn.Parameter]) -> None:
    """Add gradients up over ranks that have the whole model; those of a sharded one are sums already.

    Which numbers lie in which bucket follows from their sizes alone, so the order of each sum is that of the ranks'
    number: the same in every step and after every start. One pass a step, however many micro-batches it has.
    """
    if trainer.world_size == 1 or not isinstance(trainer.strategy, DataParallel):
        return
    for parameter in parameters:
        if parameter.grad is None:  # here, while another rank's rows may have given it one
            parameter.grad = torch.zeros_like(parameter)
    under_way: list[tuple[list[Tensor], Tensor, torch.distributed.Work]] = []
    for part in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
        flat = torch.cat([gradient.reshape(-1) for gradient in part])
        work = torch.distributed.all_reduce(flat, async_op=True)
        assert work is not None
        under_way.append((part, flat, work))
        if len(under_way) == 2:
            _give_back(*under_way.pop(0))
    for each in under_way:
        _give_back(*each)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type, BUCKET bytes at most but for a larger one alone."""
    part: list[Tensor] = []
    for gradient in gradients:
        if part and (gradient.dtype != part[0].dtype or sum(g.nbytes for g in part) + gradient.nbytes > BUCKET):
            yield part
            part = []
        part.append(gradient)
    if part:
        yield part


def _give_back(part: list[Tensor], flat: Tensor, work: torch.distributed.Work) -> None:
    work.wait()
    sums = torch.split(flat, [gradient.numel() for gradient in part])
    torch._foreach_copy_(part, [total.view_as(gradient) for total, gradient in zip(sums, part, strict=True)])


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
