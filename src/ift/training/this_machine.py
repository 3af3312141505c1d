"""What this machine reaches, for an estimate: the products of a step themselves, passes between them, calls."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch

from ift.artifacts.machine import KEPT_SHAPES, Device
from ift.data.batches import collate_unpadded
from ift.data.contract.examples import Example
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.training.estimate import CONTEXT, Machine
from ift.training.objectives import CrossEntropy
from ift.training.traced import Product, Shape, Work, trace_step

CACHED = 1 << 28  # bytes: more than a processor's caches hold
TRIED = 4.0  # seconds that products are tried for


def this_machine(device: Device, batch: Work, occupied: float) -> Machine:
    """Measured in some seconds: the products of a batch themselves, and passes over more than caches hold.

    occupied: bytes that a training on a CPU has there before its first tensor
    """
    place = device.torch_device
    products = _products_speed(batch.shapes, place)
    moved = _passes_speed(place)
    if place.type == "cuda":
        properties = torch.cuda.get_device_properties(place)
        return Machine(properties.name, products, moved, 0.0, float(properties.total_memory), CONTEXT, 32e9)
    occupied += _prepared_bytes(batch.shapes)
    return Machine("this machine's CPU", products, moved, _call_seconds(), _memory(), occupied, 1e9, True)


def _call_seconds() -> float:
    """Of a call on a CPU: from steps of a model so narrow that its products and passes take no time."""
    ids = np.arange(1, 13, dtype=np.int32)
    batch = collate_unpadded([Example(ids, ids > 6, row=row) for row in range(8)], end_of_text=0, share_prefix=False)
    config = GPTConfig(16, 16, n_layer=6, n_head=2, n_embd=16)
    traced = trace_step(lambda: GPT(config), _adamw, CrossEntropy(), batch)
    model = GPT(config).train()
    optimizer, objective = _adamw(model), CrossEntropy()

    def step() -> None:
        loss, weight, _ = objective(model, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss / weight)
        optimizer.step()

    return _median_seconds(step, torch.device("cpu")) / (traced.batch.calls + traced.step.calls)


def _adamw(model: GPT) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), fused=True)


def _products_speed(shapes: Counter[Product], place: torch.device) -> float:
    """FLOP in a second that these products reach, the largest part of them done for `TRIED` seconds.

    Each time with other factors, as in a step: those of the time before would still be in the caches.
    """
    done, taken, tried = 0.0, 0.0, 0.0
    for product, times in sorted(shapes.items(), key=lambda item: -item[0].flop * item[1]):
        if tried > TRIED:
            break
        began = time.perf_counter()
        size = sum(_bytes(x) for x in product.given if isinstance(x, Shape))
        copies = max(1, min(16, CACHED // max(size, 1)))
        factors = cycle([[_filled(x, place) for x in product.given] for _ in range(copies)])
        seconds = _median_seconds(partial(_do, product, factors), place)
        tried += time.perf_counter() - began
        done, taken = done + product.flop * times, taken + seconds * times
    return done / taken


def _do(product: Product, factors: Iterator[list[Any]]) -> None:
    product.func(*next(factors), **dict(product.options))


def _passes_speed(place: torch.device) -> float:
    """Bytes in a second of what goes on between products: a product by element, an activation and a cast."""
    x, y, z = torch.randn(3, 1 << 23, device=place)
    narrow = torch.empty_like(x, dtype=torch.bfloat16)
    number = x.element_size()
    passes = [
        (3 * number, lambda: torch.mul(x, y, out=z)),
        (2 * number, lambda: torch.ops.aten.gelu.out(x, approximate="tanh", out=z)),
        (number + narrow.element_size(), lambda: narrow.copy_(x)),
    ]
    taken = sum(_median_seconds(do, place) for _, do in passes)
    return sum(moved for moved, _ in passes) * x.numel() / taken


def _prepared_bytes(shapes: Counter[Product]) -> float:
    """What oneDNN keeps of products in bf16: the second factor in a layout of its own."""
    second = [factors[-1] for p in shapes if len(factors := [x for x in p.given if isinstance(x, Shape)]) > 1]
    kept = [_bytes(x) for x in second if x.dtype == torch.bfloat16]
    return KEPT_SHAPES * sum(kept) / len(kept) if kept else 0.0


def _bytes(shape: Shape) -> int:
    return math.prod(shape.size) * shape.dtype.itemsize


def _filled(shape: Any, place: torch.device) -> Any:
    """Random numbers in memory that is laid out like this; what is no shape stays."""
    if not isinstance(shape, Shape):
        return shape
    extent = 1 + sum((size - 1) * stride for size, stride in zip(shape.size, shape.stride, strict=True))
    return torch.randn(extent, device=place).to(shape.dtype).as_strided(shape.size, shape.stride)


def _median_seconds(do: Callable[[], object], place: torch.device) -> float:
    """The median seconds of a call, repeated for a third of a second."""
    times: list[float] = []
    end = time.perf_counter() + 0.35
    while time.perf_counter() < end or len(times) < 5:
        begin = time.perf_counter()
        do()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def _memory() -> float | None:
    """Of the whole machine, where the system says it."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return None
