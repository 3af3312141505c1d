"""Weights in four bits: NF4 with double quantization (Dettmers et al. 2023, arXiv:2305.14314, section 3).

A matrix is cut into blocks of 64 values. Each value becomes the nearest of 16 levels times the block's largest
magnitude, and these magnitudes, less their mean, become one byte each in the same way, in blocks of 256: 4.127 bits a
value. The bits are those of bitsandbytes on a CPU, whatever device the weights are on afterwards, so an adapter meets
the base that it was trained on. bitsandbytes turns them back where it is installed, else torch does, to the same
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ift.model.linear import Linear
from ift.model.slices import fill, is_slice

BLOCK, NESTED = 64, 256  # values that share a magnitude, magnitudes that share one of theirs
CHUNK = 1 << 14  # blocks that are quantized at once: temporaries of some megabytes, whatever the matrix
SMALLEST = 1e-38  # instead of 0: a block of zeros is divided by its magnitude too
# quantiles of the normal distribution, and zero (appendix E of the paper)
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
STEPS = 65535  # of [-1, 1], in which bitsandbytes looks up the nearest of the 256 levels of magnitudes


class NF4(NamedTuple):
    """A matrix of (out, in) values, row by row."""

    packed: Tensor  # (ceil(out * in / 2),) uint8: two levels, the first in the upper half
    magnitudes: Tensor  # (blocks,) uint8: which of BYTE_LEVELS
    scales: Tensor  # (ceil(blocks / 256),) fp32
    mean: Tensor  # () fp32, of the magnitudes


def _byte_levels() -> Tensor:
    """(256,) fp32, sorted: seven decades of both signs, each cut in twice as many parts as the one below, 0 and 1.

    Dettmers 2015 (arXiv:1511.04561), as bitsandbytes' create_dynamic_map has them.
    """
    positive: list[float] = []
    for decade in range(7):
        ends = torch.linspace(0.1, 1, 2**decade + 1)
        positive += (10.0 ** (decade - 6) * ((ends[:-1] + ends[1:]) / 2)).tolist()
    return torch.tensor(sorted([0.0, 1.0, *positive, *(-level for level in positive)]))


BYTE_LEVELS = _byte_levels()
# (256, 2): the two levels of each byte
PAIRS = torch.stack([torch.tensor(LEVELS).repeat_interleave(16), torch.tensor(LEVELS).repeat(16)], dim=1)


@cache
def _nearest_byte() -> Tensor:
    """(65536,) uint8: the nearest of the 256 levels to each point of a grid over [-1, 1]."""
    levels, points = BYTE_LEVELS, (2 * torch.arange(STEPS + 1).double() / STEPS - 1).float()
    left = (torch.searchsorted(levels, points, right=True) - 1).clamp(0, len(levels) - 2)
    nearer = levels[left + 1] - points < points - levels[left]
    return (left + nearer).to(torch.uint8)


def quantized(weight: Tensor) -> NF4:
    """(out, in) of any float type, on a CPU -> NF4."""
    flat, levels = weight.detach().reshape(-1), torch.tensor(LEVELS)
    middles = (levels[:-1] + levels[1:]) / 2
    blocks = -(-flat.numel() // BLOCK)
    packed = torch.empty(blocks * BLOCK // 2, dtype=torch.uint8)
    largest = torch.empty(blocks)
    for begin in range(0, blocks, CHUNK):
        part = flat[begin * BLOCK : (begin + CHUNK) * BLOCK].float()
        part = F.pad(part, (0, -part.numel() % BLOCK)).view(-1, BLOCK)
        at = slice(begin, begin + len(part))
        torch.amax(part.abs(), dim=1, out=largest[at])
        scaled = (part * (1 / largest[at].clamp(min=SMALLEST))[:, None]).clamp_(-1, 1)
        nearest = torch.bucketize(scaled, middles, out_int32=True).to(torch.uint8)
        packed[begin * BLOCK // 2 : at.stop * BLOCK // 2] = (nearest[:, ::2] << 4 | nearest[:, 1::2]).view(-1)
    packed = packed[: -(-flat.numel() // 2)].clone()
    if flat.numel() % 2:
        packed[-1] &= 0xF0  # the last byte's lower half is nobody's: bitsandbytes has level 7 there, which is 0.0
        packed[-1] |= LEVELS.index(0.0)
    mean = largest.mean()
    rest = F.pad(largest - mean, (0, -blocks % NESTED)).view(-1, NESTED)
    scales = rest.abs().amax(dim=1)
    places = ((rest / scales[:, None]).nan_to_num(nan=-1.0).clamp(-1, 1) + 1) * (STEPS / 2) + 0.5
    return NF4(packed, _nearest_byte()[places.long()].view(-1)[:blocks].clone(), scales, mean)


def dequantized(matrix: NF4, shape: tuple[int, int], dtype: torch.dtype, levels: Tensor | None = None) -> Tensor:
    """The (out, in) values, rounded from fp32. levels: the 256 of magnitudes, where they are on the device already."""
    levels = (BYTE_LEVELS.to(matrix.packed.device) if levels is None else levels)[matrix.magnitudes.long()]
    blocks = len(levels)
    padded = F.pad(levels, (0, -blocks % NESTED)).view(-1, NESTED)
    largest = (padded * matrix.scales[:, None]).view(-1)[:blocks] + matrix.mean
    fast = _bitsandbytes() if matrix.packed.device.type in ("cpu", "cuda") and shape[1] % 2 == 0 else None
    if fast is not None:
        values: Tensor = fast(matrix.packed[:, None], largest, BLOCK, "nf4", shape, dtype)
        return values
    pairs = F.embedding(matrix.packed.int(), PAIRS.to(matrix.packed.device)).view(-1)
    pairs = F.pad(pairs, (0, blocks * BLOCK - pairs.numel())).view(-1, BLOCK)
    return (pairs * largest[:, None]).view(-1)[: shape[0] * shape[1]].view(shape).to(dtype)


@cache
def _bitsandbytes() -> Callable[..., Any] | None:
    try:
        import bitsandbytes  # noqa: F401 - it registers its operators
    except ImportError:
        return None
    operator: Callable[..., Any] = torch.ops.bitsandbytes.dequantize_4bit.default
    return operator


class NF4Linear(Linear):
    """A frozen product whose weight is held in NF4, and turned back whenever it is read: in the backward again.

    The weight may be of several published matrices, one after the other, each quantized alone as other programs do.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool):
        nn.Module.__init__(self)  # torch's own would allocate the weight
        self.in_features, self.out_features = in_features, out_features
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)
        self.pieces = 0

    levels: Tensor

    def allocate(self, *rows: int) -> None:
        """Room for a weight of matrices with so many rows each, or of one: for what only asks how large things are, or
        is filled later."""
        for number in rows or (self.out_features,):
            values = number * self.in_features
            blocks = -(-values // BLOCK)
            room = NF4(
                torch.empty(-(-values // 2), dtype=torch.uint8), torch.empty(blocks, dtype=torch.uint8),
                torch.empty(-(-blocks // NESTED)), torch.empty(()),
            )  # fmt: skip
            self._keep(room, None, torch.empty(len(BYTE_LEVELS)))

    def become_parameters(self) -> None:
        """Levels and magnitudes are frozen parameters from here on, as what ranks have slices of must be; `add` fills
        them. A slice may end within a block: all is gathered before it is turned back."""
        for number in range(self.pieces):
            for name in ("packed", "magnitudes", "scales"):
                held = getattr(self, f"{name}_{number}")
                delattr(self, f"{name}_{number}")
                self.register_parameter(f"{name}_{number}", nn.Parameter(held, requires_grad=False))

    def forget(self) -> None:
        """The weight is what `add` brings from here on."""
        self.pieces = 0

    def add(self, weight: Tensor, order: Tensor | None = None) -> None:
        """Quantize the next (rows, in) of the weight.

        order: (rows,) which of them stands at each place of the published matrix, whose order decides which values
        share a block; None: the same order
        """
        self._keep(quantized(weight if order is None else weight[order]), order, BYTE_LEVELS)

    def _keep(self, matrix: NF4, order: Tensor | None, levels: Tensor) -> None:
        self.register_buffer("levels", levels, persistent=False)  # here, so that they are on the device already
        for name, tensor in matrix._asdict().items():
            if (parameter := self._parameters.get(f"{name}_{self.pieces}")) is not None:
                fill(parameter, tensor)
            else:
                self.register_buffer(f"{name}_{self.pieces}", tensor, persistent=False)
        inverse = None if order is None else torch.argsort(order)
        self.register_buffer(f"order_{self.pieces}", inverse, persistent=False)
        self.pieces += 1

    def piece(self, number: int) -> NF4:
        return NF4(*(getattr(self, f"{name}_{number}") for name in NF4._fields))

    def dequantized(self, dtype: torch.dtype) -> Tensor:
        """(out, in)"""
        parts = []
        for number in range(self.pieces):
            matrix, order = self.piece(number), getattr(self, f"order_{number}")
            rows = self.out_features if self.pieces == 1 else 2 * len(matrix.packed) // self.in_features
            part = dequantized(matrix, (rows, self.in_features), dtype, self.levels)
            parts.append(part if order is None else part[order])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in) in fp32, made anew each time: what is asked of any product now and then, merging above all."""
        return self.dequantized(torch.float32)

    @property
    def worth_holding(self) -> bool:
        """Always on a CPU. On a GPU, whose memory is why there are four bits, as long as half of it stays free."""
        if is_slice(self.packed_0):  # gathered in their own time
            return False
        if self.packed_0.device.type != "cuda":
            return True
        free, total = torch.cuda.mem_get_info(self.packed_0.device)
        return free > total // 2

    def weight_to_compute(self) -> Tensor:
        if self._held is not None and not torch.is_grad_enabled():
            return self._held
        return self.dequantized(self.compute_dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, nf4"


class _Product(torch.autograd.Function):
    """x W' + b in the layer's type. Nothing but the four bits is kept for the backward, and W has no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: NF4Linear) -> Tensor:
        low = layer.weight_to_compute()
        ctx.layer, ctx.dtypes = layer, (x.dtype, None if bias is None else bias.dtype)
        return F.linear(x.to(low.dtype), low, None if bias is None else bias.to(low.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        needs_x, needs_bias, _ = ctx.needs_input_grad
        x_dtype, bias_dtype = ctx.dtypes
        low = ctx.layer.dequantized(gradient.dtype) if needs_x else None
        rows = gradient.reshape(-1, gradient.shape[-1])
        d_x = None if low is None else (gradient @ low).to(x_dtype)
        return d_x, rows.sum(dim=0, dtype=bias_dtype) if needs_bias else None, None


def put_in_four_bits(model: nn.Module) -> None:
    """Replace the products of a model's blocks by NF4Linear without weights, which `add` gives them. The head and the
    embedding stay: other programs leave them as they are too."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is Linear and name != "lm_head":
                setattr(module, name, NF4Linear(child.in_features, child.out_features, bias=child.bias is not None))


def in_four_bits(model: nn.Module) -> Iterator[tuple[str, NF4Linear]]:
    """Name and layer of every product that is held in NF4."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, NF4Linear))


def numbers(model: nn.Module) -> int:
    """How many numbers the weights of a model are, in whatever they are held."""
    layers = [layer for _, layer in in_four_bits(model)]
    held = {id(p) for layer in layers for name, p in layer.named_parameters() if name != "bias"}
    others = sum(p.numel() for p in model.parameters() if id(p) not in held)
    return others + sum(layer.in_features * layer.out_features for layer in layers)


def stored_bytes(model: nn.Module) -> int:
    """What the weights of a model take: parameters as they are, and what is held in NF4."""
    held = (b for _, layer in in_four_bits(model) for name, b in layer.named_buffers() if name != "levels")
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *held))
