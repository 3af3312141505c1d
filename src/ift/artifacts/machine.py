"""What this machine is, and what that means for a run: device, precision, memory, versions."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from ift.errors import MachineError
from ift.launch import here
from ift.model.gpt import GPT
from ift.model.linear import compute_in
from ift.threads import share_threads

PACKAGES = ("torch", "lightning", "hydra-core", "tiktoken", "torchmetrics", "safetensors", "wandb")


@dataclass(frozen=True)
class Device:
    accelerator: str  # "gpu" or "cpu"
    precision: str  # of matrix products, "fp32", "bf16" or "fp16"; weights, gradients and all else are fp32
    count: int = 1  # of this machine that take part: GPUs, or processes on a CPU
    numbers: tuple[int, ...] = ()  # of the GPUs, where some were chosen
    nodes: int = 1  # machines like this one that take part

    @property
    def world(self) -> int:
        """Processes that train together: each takes a part of every step."""
        return self.count * self.nodes

    @property
    def dtype(self) -> torch.dtype:
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision, torch.float32)

    @property
    def torch_device(self) -> torch.device:
        """Of this process: each rank of a machine has a GPU of its own, from the first moment on."""
        if self.accelerator != "gpu":
            return torch.device("cpu")
        rank = here().local_rank
        return torch.device("cuda", self.numbers[rank] if self.numbers else rank)


def choose_device(
    accelerator: str, precision: str, *, n_embd: int, devices: str | int | Sequence[int] = 1, group: str = "trainer."
) -> Device:
    """auto takes a CUDA device if there is one, and bf16 where the machine computes it fast. A CPU gets its threads.

    Models narrower than 256 stay at fp32: there casting costs more than the products save.
    devices: "auto" for all GPUs (one process on a CPU), how many, or their numbers; group: of the settings, in messages
    Raises MachineError for a device that is not there.
    """
    gpus = torch.cuda.device_count()
    if accelerator == "gpu" and not gpus:
        raise MachineError(f"{group}accelerator=gpu: no CUDA device here (use {group}accelerator=cpu)")
    if accelerator == "auto":
        accelerator = "gpu" if gpus else "cpu"
    count, numbers = _how_many(devices, gpus if accelerator == "gpu" else None)
    if precision == "fp16" and accelerator == "cpu":
        raise MachineError(f"{group}precision=fp16: a CPU is slow at it ({group}precision=bf16 or fp32 on a CPU)")
    if precision == "auto":
        precision = "bf16" if fast_bf16(accelerator) and n_embd >= 256 else "fp32"
    if accelerator == "cpu":
        share_threads(count)
        forget_old_shapes()
    return Device(accelerator, precision, count, numbers)


def placed(model: GPT, accelerator: str, precision: str) -> GPT:
    """The same model, ready to answer: on the device and in the precision that these settings mean."""
    device = choose_device(accelerator, precision, n_embd=model.config.n_embd, group="")
    model.to(device.torch_device).eval()
    compute_in(model, device.dtype)
    return model


def _how_many(devices: str | int | Sequence[int], gpus: int | None) -> tuple[int, tuple[int, ...]]:
    """How many devices take part, and which where they were chosen. gpus: of this machine; None: on a CPU."""
    if devices == "auto":
        return gpus or 1, ()
    if isinstance(devices, int):
        if gpus is not None and devices > gpus:
            raise MachineError(f"trainer.devices={devices}: this machine has {gpus} (set it to that)")
        return devices, ()
    numbers = [int(number) for number in devices]
    words = f"trainer.devices={numbers}".replace(" ", "")
    if gpus is None:
        raise MachineError(f"{words}: numbers of GPUs, and this is a CPU (trainer.devices=1 is one process)")
    if max(numbers) >= gpus:
        there = "0" if gpus == 1 else f"0 to {gpus - 1}"
        raise MachineError(f"{words}: the GPUs of this machine have the numbers {there}")
    return len(numbers), tuple(numbers)


def fast_bf16(accelerator: str) -> bool:
    """Whether the machine has instructions for bf16 products: tensor cores, AMX or AVX-512."""
    if accelerator == "gpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, flag, lambda: False)() for flag in flags)


KEPT_SHAPES = 32  # more than the different products of a block


def forget_old_shapes() -> None:
    """Have oneDNN keep its preparations for a few shapes of products, not for the last 1,024, twice.

    Each holds a copy of the weight in a layout of its own, and batches of unequal rows have new shapes in every step:
    300 products of 2 MB took 570 MB (docs/log.md). Read at the first product of the process; what the user has set
    stays. The variables: oneDNN's documentation ("Primitive Cache"), and ideep's, by which torch calls it.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KEPT_SHAPES))


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # names and numbers of malloc.h


def keep_freed_memory() -> None:
    """Have the C library keep large blocks that are freed, for the next step will ask for the same ones.

    glibc gives each back to the system at once, and then every page of the next one is a fault: an eighth of a step of
    GPT-2 small on a CPU (docs/log.md). Other C libraries are left as they are. Options: mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # never


def give_freed_memory_back() -> None:
    """The opposite, where memory is scarcer than time: whole weights that are gathered for a moment.

    What a block keeps for its backward would be put into the place that its gathered weights leave, and the next ones
    would not fit there: a rank of four came to hold all blocks twice (docs/log.md).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 65_536)  # glibc's own: an earlier job of a sweep may have kept what was freed
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 19)  # larger blocks have pages of their own, whatever was freed before
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 20)


def resident_memory(status: Path = Path("/proc/self/status")) -> tuple[int, int] | None:
    """Bytes of this process now and at its peak; None where the system does not say it."""
    try:
        kept = dict(line.split(":") for line in status.read_text().splitlines() if line.startswith("Vm"))
        now, peak = (int(kept[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return now, peak


def peak_memory_bytes(device: Device) -> int:
    """Most memory in use at any time so far: of this rank's GPU, or resident memory of this process on a CPU."""
    if device.accelerator == "gpu":
        return torch.cuda.max_memory_allocated(device.torch_device)
    if resident := resident_memory():
        return resident[1]
    unit = 1 if platform.system() == "Darwin" else 1024  # where this counts what a parent had at the fork too
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def versions() -> str:
    """As one value, so that summary.json stays flat."""
    return ", ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])
