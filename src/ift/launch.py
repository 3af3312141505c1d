"""Who started this process: a person, or a launcher that starts one process for each device of one or more nodes.

Read from the environment, without torch. Known are torchrun (or any that sets RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT), SLURM's srun, Open MPI and MPICH, and Lightning, which starts the other ranks of `python train.py
trainer=ddp` by itself. One of their variables alone, such as a LOCAL_RANK that a shell was left with, is no launcher.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ift.errors import ConfigError

TORCHRUN, ENVIRONMENT, SRUN, MPI, LIGHTNING = "torchrun", "the environment", "srun", "mpirun", "lightning"
INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs in which a person types (Lightning's rule)


@dataclass(frozen=True)
class Launch:
    """by: the launcher, None where a person started the one process that there is. local_world: processes a node."""

    by: str | None = None
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    name: str = ""  # what the ranks of this start share, and those of no other that runs now

    @property
    def nodes(self) -> int:
        return self.world // self.local_world

    @property
    def node_rank(self) -> int:
        return self.rank // self.local_world

    @property
    def external(self) -> bool:
        """Whether a launcher started all ranks, several of them, at once."""
        return self.world > 1 and self.by != LIGHTNING

    @property
    def key(self) -> str:
        """`name` as a part of a file's name. The ranks of one node may have the name of another host's."""
        where = socket.gethostname() if self.nodes == 1 else ""
        return hashlib.sha256(f"{self.by} {where} {self.name}".encode()).hexdigest()[:12]


@cache
def here() -> Launch:
    """This process. Read once: Lightning changes the variables later. Raises ConfigError as `read` does."""
    return read(os.environ)


def is_other_rank() -> bool:
    """Whether this process is not the first of its run, which alone writes files and reports errors."""
    return here().rank != 0


def settle() -> None:
    """Take a LOCAL_RANK that no launcher set out of the environment: Lightning would take it for one, and wait."""
    if here().by is None:
        os.environ.pop("LOCAL_RANK", None)


def read(environment: Mapping[str, str]) -> Launch:
    """Raises ConfigError where the launcher's numbers contradict each other."""
    there = _Variables(environment)
    launch = _torchrun(there) or _lightning(there) or _srun(there) or _mpi(there) or Launch()
    if not 0 <= launch.rank < launch.world or not 0 <= launch.local_rank < launch.local_world:
        raise ConfigError(
            f"{launch.by}: rank {launch.rank} of {launch.world}, local rank {launch.local_rank} of "
            f"{launch.local_world}: no such process (start it again)"
        )
    if launch.world % launch.local_world:
        raise ConfigError(
            f"{launch.by}: {launch.world} processes, {launch.local_world} on this node "
            "(start the same number on every node)"
        )
    return launch


class _Variables:
    def __init__(self, environment: Mapping[str, str]):
        self.environment = environment

    def have(self, *names: str) -> bool:
        return all(self.environment.get(name) for name in names)

    def text(self, *names: str) -> str:
        """The first of these that is set."""
        return next((self.environment[name] for name in names if self.environment.get(name)), "")

    def number(self, *names: str, default: int) -> int:
        for name in names:
            if value := self.environment.get(name):
                if not value.isdecimal():
                    raise ConfigError(f"{name}={value}: not a number (the launcher sets it: start it again)")
                return int(value)
        return default


def _torchrun(there: _Variables) -> Launch | None:
    if not there.have("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        return None
    world = there.number("WORLD_SIZE", default=1)
    # without a local rank there is one process in each pod (Kubeflow); with one alone, all are on this node
    local_world = there.number("LOCAL_WORLD_SIZE", default=world if there.have("LOCAL_RANK") else 1)
    return Launch(
        TORCHRUN if there.have("TORCHELASTIC_RUN_ID") else ENVIRONMENT,
        there.number("RANK", default=0),
        world,
        there.number("LOCAL_RANK", default=0),
        local_world,
        " ".join(map(there.text, ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"))),
    )


def _lightning(there: _Variables) -> Launch | None:
    """Its other ranks; they are on the node of the first, for we start none elsewhere this way."""
    if not there.have("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        return None
    rank, world = there.number("LOCAL_RANK", default=0), there.number("WORLD_SIZE", default=1)
    return Launch(LIGHTNING, rank, world, rank, world)


def _srun(there: _Variables) -> Launch | None:
    """Its tasks, where there are several; not the script of sbatch, which has the variables of a first task too."""
    step = there.text("SLURM_STEP_ID", "SLURM_STEPID")
    in_script = not step and there.text("ENVIRONMENT") == "BATCH"
    world = there.number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", default=1)
    if not there.have("SLURM_PROCID") or world == 1 or in_script or there.text("SLURM_JOB_NAME") in INTERACTIVE:
        return None
    nodes = there.number("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "SLURM_JOB_NUM_NODES", default=1)
    rank = there.number("SLURM_PROCID", default=0)
    if world % nodes:
        raise ConfigError(f"srun: {world} tasks on {nodes} nodes (start the same number on every node)")
    return Launch(
        SRUN,
        rank,
        world,
        there.number("SLURM_LOCALID", default=rank % (world // nodes)),
        world // nodes,
        f"{there.text('SLURM_JOB_ID', 'SLURM_JOBID')} {step} {there.text('SLURM_RESTART_COUNT')}",
    )


def _mpi(there: _Variables) -> Launch | None:
    world = there.number("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", default=1)
    if world == 1 or not there.text("OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        return None
    rank = there.number("OMPI_COMM_WORLD_RANK", "PMI_RANK", default=0)
    local_world = there.number("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", default=world)
    local_rank = there.number("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", default=rank % local_world)
    name = there.text("PMIX_NAMESPACE") or f"{there.text('MASTER_ADDR')} {there.text('MASTER_PORT')}".strip()
    if not name and local_world < world:
        raise ConfigError("mpirun: processes on several nodes (set MASTER_ADDR and MASTER_PORT for all of them)")
    return Launch(MPI, rank, world, local_rank, local_world, name or str(os.getppid()))


# -- settings --------------------------------------------------------------------------------------------------------


def devices_and_nodes(devices: Any, nodes: int | None, *, otherwise: Any) -> tuple[Any, int]:
    """trainer.devices and trainer.nodes as they are for this start. otherwise: the devices where neither says it.

    Raises ConfigError where the settings and the launcher contradict each other.
    """
    launch = here()
    if not launch.external:
        if (nodes or 1) > 1:
            raise ConfigError(
                f"trainer.nodes={nodes}: nothing started this on several nodes (torchrun --nnodes={nodes} ..., or srun)"
            )
        return (otherwise if devices is None else devices), 1
    chosen = len(devices) if isinstance(devices, list | tuple) else devices  # numbers of GPUs
    if isinstance(chosen, int) and chosen not in (-1, launch.local_world):
        raise ConfigError(
            f"trainer.devices={devices}: {launch.by} started {launch.local_world} processes on each node "
            "(leave it out, or start so many)"
        )
    if nodes not in (None, launch.nodes):
        raise ConfigError(
            f"trainer.nodes={nodes}: {launch.by} started processes on {launch.nodes} (leave it out, or start so many)"
        )
    return devices if chosen is not devices else launch.local_world, launch.nodes
