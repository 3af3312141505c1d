"""Checkpoints and models are written while the next steps run: copied in memory first, by one thread afterwards.

Where the memory has no room for the copy, everything is written at once, as if there were no thread, and the run says
so once. While a copy is there the next step runs, and takes again what this process had at its peak.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

from ift.artifacts.machine import resident_memory
from ift.model.gpt import GPT
from ift.training.clock import Clock

SPARE = 1 << 30  # bytes of memory that a copy leaves free


class Writer:
    """One thread, one job after the other in the order in which they came; a context manager, whose end waits."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self._pool = ThreadPoolExecutor(1, "ift-writer")
        self._jobs: list[Future[None]] = []
        self._weights: tuple[int, Mapping[str, Tensor]] | None = None
        self._copied = self._a_step = 0  # bytes: of the last copy; at the peak of a step beyond what stays after it
        self._told = False

    def write(self, job: Callable[[], None]) -> Future[None]:
        """Begin a job when those before it are done."""
        future = self._pool.submit(job)
        self._jobs.append(future)
        return future

    def wait(self) -> None:
        """Until all is written. What a job raised, whoever gave it has."""
        with self.clock.spent("waiting"):
            for job in self._jobs:
                job.exception()
        self._jobs = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.wait()
        self.forget()
        self._pool.shutdown()

    # -- copies ----------------------------------------------------------------------------------------------------

    def copied(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """The same in memory of this machine that no step changes; None where there is no room."""
        if not tensors:
            return {}
        size = sum(tensor.nbytes for tensor in tensors.values())
        if not has_room(size + self._needed_again(tensors)):
            self._tell(size)
            return None
        self._copied = size
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    def _needed_again(self, tensors: Mapping[str, Tensor]) -> int:
        """Bytes that a step will take beside the copy; a GPU's step takes those of another memory.

        Before the first step these are also gradients and at most two moments for the optimizer.
        """
        if max(tensors.values(), key=lambda tensor: tensor.nbytes).device.type != "cpu":
            return 0
        self._a_step = max(self._a_step, beyond_now() - self._copied)  # the last copy was there at the peak, too
        return self._a_step + 3 * sum(t.nbytes for t in tensors.values() if t.requires_grad and t.grad is None)

    def _tell(self, size: int) -> None:
        if self._told or memory_available() is None:
            return
        self._told = True
        print(
            f"ift: {size / 1e9:,.2f} GB for a copy of what is saved do not fit into memory beside training: steps wait "
            "until it is written",
            flush=True,
        )

    def remember(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Copies of a module's weights at a step, by their names: a model of the same step needs no other."""
        self._weights = (step, weights)

    def forget(self) -> None:
        self._weights = None

    def copied_model(self, model: GPT, step: int, prefix: str = "model.") -> GPT | None:
        """The model with weights that no step changes; None where there is no room.

        What is trained is made anew, what is frozen is shared; all else, layers first, is copied as Python does it.
        """
        learnt = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if any(type(parameter) is not nn.Parameter for parameter in learnt.values()):
            return None
        there = self._weights[1] if self._weights and self._weights[0] == step else {}
        found = {name: there[prefix + name] for name in learnt if prefix + name in there}
        if any(found[name].shape != learnt[name].shape for name in found):
            return None
        copies = self.copied({name: parameter for name, parameter in learnt.items() if name not in found})
        if copies is None:
            return None
        found |= copies
        memo: dict[int, object] = {id(p): nn.Parameter(found[name]) for name, p in learnt.items()}
        kept = chain((p for p in model.parameters() if not p.requires_grad), model.buffers())
        memo |= {id(tensor): tensor for tensor in kept}  # no step changes them
        memo[id(model.run_block)] = model.run_block  # a function, which may be a compiled one
        with torch.no_grad():
            return copy.deepcopy(model, memo)


def has_room(size: int) -> bool:
    """Whether the machine has so many bytes of memory to spare; unknown is no."""
    free = memory_available()
    return free is not None and size + SPARE <= free


def beyond_now() -> int:
    """Bytes of memory that this process had at its peak and has no more; 0 where the system does not say it."""
    now, peak = resident_memory() or (0, 0)
    return peak - now


def memory_available(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: of the machine, and of the control group it is in."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None
    try:
        group = root / "sys/fs/cgroup"
        most = int((group / "memory.max").read_text())  # "max" where there is no bound
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(kept.get("inactive_file", 0))
        return min(free, most - used)
    except (OSError, ValueError):
        return free
