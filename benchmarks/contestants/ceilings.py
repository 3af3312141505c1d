"""What the machine could do: its fastest matrix product, and the products of our step alone, with nothing in between.

N positions of a step, C channels, V vocabulary, G heads of keys of D channels, Q queries and K keys of a block of
attention.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from workload import Job, say

SIZES = ((2048, 768, 3072), (2048, 3072, 768), (2048, 2048, 2048), (4096, 4096, 4096))
PATIENCE = 1.0  # seconds
CHUNK = 512  # rows of logits that exist together


def main() -> None:
    job = Job()
    peaks = {name: peak(dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    plan = job.workload.plan
    products = Products(plan, job.dtype)
    seconds, flops = [], []
    options = job.options
    for blocks, positions, supervised in zip(
        options["attended"], options["computed"], options["supervised"], strict=True
    ):
        products.prepare(positions)
        products(blocks, positions, supervised)  # the first time meets new shapes
        began = time.monotonic()
        flops.append(products(blocks, positions, supervised))
        seconds.append(time.monotonic() - began)
    say({"peaks": peaks, "products": seconds, "flops": flops})


def peak(dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of a few sizes, the best of four.

    Where one product takes more than PATIENCE, as bf16 without instructions for it does, no larger one is tried.
    """
    best = 0.0
    for m, k, n in SIZES:
        a, b, out = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.empty(m, n, dtype=dtype)
        for _ in range(4):
            seconds = timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
            best = max(best, 2 * m * k * n / seconds)
            if seconds > PATIENCE:
                return best
    return best


def timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


class Products:
    """All matrix products of a step, forward and backward, on weights and activations of the same shapes and layout.

    Results go where there is room already, so that nothing but the products is timed. Those of attention are in fp32,
    as the step has them.
    """

    def __init__(self, plan: dict[str, Any], dtype: torch.dtype):
        self.heads, self.kv_heads, self.head_dim = plan["n_head"], plan["n_kv_head"], plan["head_dim"]
        self.channels, self.dtype = plan["n_embd"], dtype
        self.layers = [[self.random(*shape) for shape in plan["matrices"]] for _ in range(plan["n_layer"])]
        self.head = self.random(plan["vocab_size"], self.channels)
        self.widths = {width for shape in plan["matrices"] for width in shape}
        self.inputs: dict[int, torch.Tensor] = {}
        self.room: dict[Any, torch.Tensor] = {}

    def random(self, *shape: int) -> torch.Tensor:
        return (torch.randn(shape) * 0.02).to(self.dtype)

    def prepare(self, positions: int) -> None:
        self.inputs = {width: self.random(positions, width) for width in self.widths}

    def out(self, *shape: int, what: str = "", dtype: torch.dtype | None = None) -> torch.Tensor:
        """Room of this shape; `what` tells apart those that are read and written together."""
        key = (what, dtype, *shape)
        if key not in self.room:
            self.room[key] = torch.zeros(shape, dtype=dtype or self.dtype)
        return self.room[key]

    def __call__(self, blocks: list[tuple[int, int]], positions: int, supervised: int) -> int:
        """FLOPs that were done."""
        flops, out = 0, self.out
        for weights in self.layers:
            for weight in weights:
                o, i = weight.shape
                x, gradient = self.inputs[i], self.inputs[o]
                torch.addmm(out(o), x, weight.t(), out=out(positions, o))
                torch.mm(gradient, weight, out=out(positions, i))
                torch.mm(gradient.t(), x, out=out(o, i))
                flops += 6 * positions * o * i
            flops += self.attention(blocks)
        hidden = self.inputs[self.channels]
        V, C = self.head.shape
        logits = out(CHUNK, V)
        for at in range(0, supervised, CHUNK):
            n = min(CHUNK, supervised - at)
            rows = hidden[at : at + n]
            torch.mm(rows, self.head.t(), out=logits[:n])
            torch.mm(logits[:n], self.head, out=out(n, C))
            torch.mm(logits[:n].t(), rows, out=out(V, C))
            flops += 6 * n * V * C
        return flops

    def attention(self, blocks: list[tuple[int, int]]) -> int:
        G, shared, D = self.kv_heads, self.heads // self.kv_heads, self.head_dim
        flops = 0
        for Q, K in blocks:
            rows = shared * Q  # of the queries that share a head of keys
            shapes = (("q", (rows, D)), ("k", (K, D)), ("dq", (rows, D)), ("dk", (K, D)), ("scores", (rows, K)))
            q, k, dq, dk, scores = (self.out(G, *shape, what=what, dtype=torch.float32) for what, shape in shapes)
            for _ in range(2):  # forward, and the gradient of the weights and of the queries
                torch.bmm(q, k.transpose(1, 2), out=scores)
                torch.bmm(scores, k, out=dq)
            for _ in range(2):  # the gradient of keys and of values
                torch.bmm(scores.transpose(1, 2), q, out=dk)
            flops += 12 * G * rows * K * D
        return flops


if __name__ == "__main__":
    main()
