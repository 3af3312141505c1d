"""How much memory and time a training needs, and how many devices are useful, before anything is started.

What one device does is traced (ift.training.traced); what several add is arithmetic on it. N devices, P bytes of what
is trained:

DDP   each holds everything; 2 P (N - 1) / N bytes of gradients go over the wire in a step
FSDP  each holds 1 / N of weights, gradients and optimizer; two blocks and the embedding are whole for a moment, and
      weights go over the wire twice in a micro-batch, gradients once, each (N - 1) / N of its bytes (Zhao et al.
      2023, arXiv:2304.11277); with an adapter these are the frozen base and gradients of the adapter alone

Time is a roofline (Williams et al. 2009): products take their operations at the machine's speed for them, all else its
bytes at the speed of memory, and each call what a call costs; on a GPU calls are queued meanwhile and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ift.model.config import GPTConfig
from ift.training.traced import Traced, Work

REACHED = 0.6  # of a published peak that products reach, of published memory speed that other passes do
USEFUL = 0.7  # the share of a device's time that must go into the step for one more to be called useful
CONTEXT = 1.0e9  # bytes that CUDA and its libraries take on a GPU before the first tensor


@dataclass(frozen=True)
class Machine:
    """One device, and what lies between devices."""

    name: str
    products: float  # FLOP in a second that matrix products reach
    moved: float  # bytes in a second that other operations reach, reads and writes together
    call: float  # seconds that a call costs which does nothing
    memory: float | None  # bytes; None: not known
    occupied: float  # bytes of it that are gone before the first tensor
    wire: float  # bytes in a second from one device to another, each way
    is_cpu: bool = False  # whose memory is the machine's


def published(name: str, tflops: float, memory_tb: float, memory: float, wire: float) -> Machine:
    return Machine(name, tflops * 1e12 * REACHED, memory_tb * 1e12 * REACHED, 0.0, memory * 1e9, CONTEXT, wire * 1e9)


# dense bf16 TFLOP/s, memory in TB/s and GB, GB/s each way to a neighbour: the data sheets of NVIDIA
PUBLISHED = {
    "a100": published("A100 SXM 80 GB", 312, 2.039, 80, 300),
    "h100": published("H100 SXM", 989, 3.35, 80, 450),
    "h200": published("H200", 989, 4.8, 141, 450),
    "b200": published("B200", 2250, 8.0, 180, 900),
    "l40s": published("L40S", 362, 0.864, 48, 32),
    "rtx4090": published("RTX 4090", 165, 1.008, 24, 32),
}


@dataclass(frozen=True)
class Plan:
    """What a training is to be, as far as its cost depends on it."""

    rows: int  # of training
    row_tokens: float  # mean of all rows
    batch_size: int
    accumulate: int
    epochs: float
    max_steps: int | None
    devices: int
    sharded: bool

    @property
    def rows_a_step(self) -> int:
        return self.batch_size * self.accumulate * self.devices

    @property
    def steps(self) -> int:
        steps = int(-(-self.rows // self.rows_a_step) * self.epochs)
        return min(steps, self.max_steps) if self.max_steps else steps


@dataclass(frozen=True)
class Share:
    """Of one device among several: bytes, and seconds of a step."""

    weights: float
    gradients: float
    state: float
    activations: float
    gathered: float  # whole for a moment, of what is sharded; buffers of what is sent
    copied: float  # of what is saved, in the memory of the machine, while a checkpoint is written; with room for it
    beside: bool  # that memory is the device's own: a CPU's
    occupied: float
    compute: float
    wire: float

    @property
    def needed(self) -> float:
        return self.weights + self.gradients + self.state + self.activations + self.gathered + self.occupied

    @property
    def memory(self) -> float:
        """With the copy where it is this device's memory; without room for one, steps wait for the disk."""
        return self.needed + (self.copied if self.beside else 0)

    @property
    def seconds(self) -> float:
        """Gradients travel while the backward goes on: the longer of the two counts."""
        return max(self.compute, self.wire)

    @property
    def useful(self) -> float:
        """The share of the step in which the device computes."""
        return self.compute / self.seconds if self.seconds else 1.0


def share(longest: Traced, typical: Traced, machine: Machine, *, devices: int, accumulate: int, sharded: bool) -> Share:
    """Of each of so many devices, where a step is `accumulate` micro-batches on each.

    longest: of the batch that needs most memory, typical: of one of mean size
    """
    parts = devices if sharded else 1
    travels = (devices - 1) / devices
    if sharded:
        wire = (2 * longest.weights + longest.gradients) * travels * accumulate
        gathered = (2 * longest.largest_block + longest.embedding) * (1 if devices > 1 else 0)
    else:
        wire = 2 * longest.gradients * travels
        gathered = longest.gradients if devices > 1 else 0
    return Share(
        weights=longest.weights / parts,
        gradients=longest.gradients / parts,
        state=longest.state / parts,
        activations=longest.activations,
        gathered=gathered,
        copied=0 if sharded else longest.saved,  # slices are written by all ranks at once, and are not copied
        beside=machine.is_cpu,
        occupied=machine.occupied,
        compute=seconds(typical.batch, machine) * accumulate + seconds(typical.step, machine) / parts,
        wire=wire / machine.wire,
    )


def seconds(work: Work, machine: Machine) -> float:
    return work.products / machine.products + work.moved / machine.moved + work.calls * machine.call


def useful_devices(share_of: Callable[[int, int], Share], rows_a_step: int) -> int:
    """The most devices, a power of 2, that still compute most of the time when the step stays the same rows.

    share_of: (devices, rows of each) -> what each does
    """
    devices, best = 1, 1
    while devices * 2 <= rows_a_step:
        devices *= 2
        if share_of(devices, -(-rows_a_step // devices)).useful < USEFUL:
            break
        best = devices
    return best


def cache_bytes(config: GPTConfig, element: int) -> int:
    """Of keys and values for a token of an answer, with so many bytes a number."""
    return 2 * config.n_layer * (config.kv_heads or config.n_head) * config.head_dim * element
