"""What the processes of one run share. Every rank calls these at the same places; one alone waits for nobody."""

from __future__ import annotations

import os

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor

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
