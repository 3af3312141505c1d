"""Attention over rows that lie one after the other, and the rotation of queries and keys.

N tokens, D channels of a head, H heads of queries, K heads of keys and values: K divides H, and H / K neighbouring
heads of queries share one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ift.errors import one_line
from ift.model.config import Rope

BLOCK = 128  # queries that are computed together: scores stay in the processor's cache, and most of what no query may
# see is never computed

Stretches = tuple[slice, ...]  # of flat tokens
Block = tuple[slice, slice, Stretches]  # queries, the row's own keys up to the last of them, earlier keys of the row


class Scores(NamedTuple):
    """How a query weighs a key that is not after it."""

    scale: float  # of the product of the two
    window: int | None = None  # the key is seen while position of query - position of key < window
    cap: float | None = None  # the scaled product x becomes cap * tanh(x / cap)


class Rotary:
    """Rotation of the first 2F channels of a head by position; channel i turns with channel F + i (Su et al. 2021).

    Angles, cosines and sines are fp32 whatever the type of the states.
    """

    def __init__(self, rope: Rope):
        self.rope = rope
        self.frequencies = frequencies(rope)  # (F,) angle of each pair for one position
        self.long = frequencies(rope, long=True) if rope.long else None  # of rows of more than rope.original tokens

    def turns(self, positions: Tensor, lengths: Tensor | int | None = None) -> tuple[Tensor, Tensor]:
        """(N,) positions -> cosines and signed sines as `rotate` takes them, (N, 1, 2F) each: alike for all heads.

        lengths: (N,) tokens of the row of each, or one number for all; None: each is the last of its row
        """
        if self.frequencies.device != positions.device:
            self.frequencies = self.frequencies.to(positions.device)
        turn: Tensor = self.frequencies
        if self.long is not None:
            self.long = self.long.to(positions.device)
            lengths = positions + 1 if lengths is None else torch.as_tensor(lengths, device=positions.device)
            turn = torch.where((lengths > self.rope.original).view(-1, 1, 1), self.long, turn)
        angles = positions.float()[:, None, None] * turn
        cos, sin = angles.cos() * self.rope.scale, angles.sin() * self.rope.scale
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)


def frequencies(rope: Rope, *, long: bool = False) -> Tensor:
    """(F,) angles for one position, in fp32 and in the order of operations in which published models have them.

    On a CPU also where a model is built without memory (torch.device("meta")).
    """
    channels = torch.arange(0, rope.channels, 2, dtype=torch.int64, device="cpu").float() / rope.channels
    plain = 1.0 / (rope.theta**channels)
    if rope.kind == "linear":
        return plain / rope.factor
    if rope.kind == "longrope":
        return 1.0 / (torch.tensor(rope.long if long else rope.short, device="cpu") * rope.theta**channels)
    if rope.kind == "llama3":
        turns = rope.original * plain / (2 * math.pi)  # in the original context
        kept = ((turns - rope.low) / (rope.high - rope.low)).clamp(0, 1)
        return (1 - kept) * plain / rope.factor + kept * plain
    if rope.kind == "yarn":

        def channel(turns: float) -> float:
            """The pair that makes so many turns in the original context."""
            return rope.channels * math.log(rope.original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

        first, last = channel(rope.high), channel(rope.low)
        first, last = (math.floor(first), math.ceil(last)) if rope.rounded else (first, last)
        first, last = max(first, 0), min(last, rope.channels - 1)
        ramp = (torch.arange(len(plain), device="cpu") - first) / (last - first if last != first else 0.001)
        divided = ramp.clamp(0, 1)
        return plain / rope.factor * divided + plain * (1 - divided)
    return plain


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """(..., N, heads, D) states by the turns of their N positions; channels after the first 2F stay as they are."""
    if torch.is_grad_enabled() and x.requires_grad:
        rotated: Tensor = _Rotation.apply(x, *turns)  # type: ignore[no-untyped-call]
        return rotated
    return _rotate(x, *turns)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Over whole heads, not halves: passes over rows of 32 numbers take twice the time."""
    turning = cos.shape[-1]
    part = x[..., :turning].float()
    other = part.unflatten(-1, (2, turning // 2))  # type: ignore[no-untyped-call]
    other = other.flip(-2).flatten(-2)  # of each channel, the one that it turns with
    turned = torch.addcmul(part * cos, other, sin).to(x.dtype)
    return turned if turning == x.shape[-1] else torch.cat([turned, x[..., turning:]], dim=-1)


class _Rotation(torch.autograd.Function):
    """Its gradient is the rotation back; nothing of the states is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(gradient, cos, -sin), None, None


# ----------------------------------------------------------------------------------------------------------------------
# heads of one fused product


def split_heads(fused: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(..., (H + 2K) * D) -> q (..., H, D), k and v (..., K, D): views.

    Their gradients become one tensor again without a copy where attention has written them side by side.
    """
    q, k, v = _Split.apply(fused, heads, kv_heads)  # type: ignore[no-untyped-call]
    return q, k, v


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fused: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, ...]:
        apart = fused.view(*fused.shape[:-1], heads + 2 * kv_heads, -1)
        return torch.split(apart, [heads, kv_heads, kv_heads], dim=-2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        whole = _side_by_side(gradients)
        return (torch.cat(gradients, dim=-2) if whole is None else whole).flatten(-2), None, None


def _side_by_side(parts: Sequence[Tensor]) -> Tensor | None:
    """The contiguous tensor that (N, heads, D) parts are slices of, in order; None where there is none."""
    first, heads = parts[0], sum(part.shape[-2] for part in parts)
    stride = (heads * first.shape[-1], first.shape[-1], 1)
    offset, memory = first.storage_offset(), first.untyped_storage().data_ptr()
    for part in parts:
        if part.stride() != stride or part.storage_offset() != offset or part.untyped_storage().data_ptr() != memory:
            return None
        offset += part.shape[-2] * part.shape[-1]
    return first.as_strided((len(first), heads, first.shape[-1]), stride)


# ----------------------------------------------------------------------------------------------------------------------
# torch's fused attention, row by row


def attend_row(q: Tensor, k: Tensor, v: Tensor, scores: Scores, *, dropout: float = 0.0, mask: bool = False) -> Tensor:
    """q (B, H, T, D), k and v (B, K, P + T, D) -> (B, H, T, D); the queries are the last T of the P + T positions.

    torch's fused attention, which knows no cap: with one, plain products. mask: give it a mask where it could do
    without one (its kernels round differently).
    """
    T, keys = q.shape[2], k.shape[2]
    windowed = scores.window is not None and scores.window < keys
    shared = q.shape[1] != k.shape[1]
    if scores.cap is None and keys == T and not windowed and not mask:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=dropout, scale=scores.scale, enable_gqa=shared
        )
    seen = torch.ones(T, keys, dtype=torch.bool, device=q.device).tril(keys - T)
    if scores.window is not None and windowed:
        seen = seen.triu(keys - T - scores.window + 1)
    if scores.cap is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, dropout_p=dropout, scale=scores.scale, enable_gqa=shared
        )
    if shared:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    products = capped((q.float() * scores.scale) @ k.float().transpose(2, 3), scores.cap)
    weights = torch.softmax(products.masked_fill(~seen, -math.inf), dim=-1)
    return (F.dropout(weights, dropout) @ v.float()).to(q.dtype)


def capped(products: Tensor, cap: float | None) -> Tensor:
    return products if cap is None else cap * torch.tanh(products / cap)


# ----------------------------------------------------------------------------------------------------------------------
# block by block


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[Block], scores: Scores) -> Tensor:
    """q (N, H, D), k and v (N, K, D) -> (N, H * D): each block's queries see its keys, up to themselves.

    The keys of a block are all positions of its row, from the first to that of its last query.
    """
    out: Tensor = BlockAttention.apply(q, k, v, blocks, scores)  # type: ignore[no-untyped-call]
    return out


class BlockAttention(torch.autograd.Function):
    """softmax(QK' * scale) V for each block, in fp32 whatever the type of the states; scores are never kept.

    At the lengths of instructions, on a CPU, batched products row by row take a half to a third of the time of torch's
    fused attention and its backward (docs/log.md), and nothing is computed for padding.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: Sequence[Block], scores: Scores) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.blocks, ctx.scores = blocks, scores
        out = torch.empty(q.shape, device=q.device)
        into = out.transpose(0, 1)  # (H, N, D)
        queries_of, keys_of, values_of = _heads(q, k, v, scores)
        for queries, keys, earlier in blocks:
            stretches, hidden = _visible(queries, keys, earlier, scores.window, q.device)
            query, key, value = queries_of[:, queries], _pick(keys_of, stretches), _pick(values_of, stretches)
            weights, _ = _weights(query, key, hidden, scores)
            into[:, queries] = torch.bmm(weights, value).view(query.shape)
        return out.to(q.dtype).flatten(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v = ctx.saved_tensors
        scores: Scores = ctx.scores
        queries_of, keys_of, values_of = _heads(q, k, v, scores)
        sizes = [q.shape[1], k.shape[1], v.shape[1]]
        # one buffer, each part in its place: split_heads gives it on as it is
        buffer = torch.zeros(len(q), sum(sizes), q.shape[2], device=q.device)
        d_queries, d_keys, d_values = (part.transpose(0, 1) for part in torch.split(buffer, sizes, dim=1))
        d_out_of = gradient.float().view(q.shape).transpose(0, 1)
        for queries, keys, earlier in ctx.blocks:
            stretches, hidden = _visible(queries, keys, earlier, scores.window, q.device)
            query, key, value = queries_of[:, queries], _pick(keys_of, stretches), _pick(values_of, stretches)
            weights, slope = _weights(query, key, hidden, scores)
            d_out = _grouped(d_out_of[:, queries], len(key))
            d_weights = torch.bmm(d_out, value.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, torch.float32)
            if slope is not None:
                d_scores *= slope
            d_queries[:, queries] = torch.bmm(d_scores, key).view(query.shape)
            _add(d_keys, stretches, torch.bmm(d_scores.transpose(1, 2), _grouped(query, len(key))))
            _add(d_values, stretches, torch.bmm(weights.transpose(1, 2), d_out))
        d_queries *= scores.scale
        d_q, d_k, d_v = torch.split(buffer.to(q.dtype), sizes, dim=1)
        return d_q, d_k, d_v, None, None


def _heads(q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
    """(N, heads, D) -> (heads, N, D) each, in fp32. Queries are scaled here, once: scores are many more numbers."""
    queries, keys, values = (part.float().transpose(0, 1) for part in (q, k, v))
    return queries * scores.scale, keys, values


def _visible(
    queries: slice, keys: slice, earlier: Stretches, window: int | None, device: torch.device
) -> tuple[Stretches, Tensor]:
    """The stretches of keys that any of the queries sees, and (n, keys) what is added to the products: 0 or -inf.

    The mask may have fewer columns: it is that of the last keys, and all queries see those before.
    """
    n, stretches = queries.stop - queries.start, (*earlier, keys)
    total = sum(part.stop - part.start for part in stretches)
    if window is None or total <= window:
        return stretches, _triangle(device)[:n, :n]
    unseen = max(0, total - n - window + 1)  # positions that are too far back for the first query
    before, left = unseen, []
    for part in stretches:
        gone = min(before, part.stop - part.start)
        before -= gone
        if part.start + gone < part.stop:
            left.append(slice(part.start + gone, part.stop))
    kept = total - unseen
    far = torch.ones(n, kept, dtype=torch.bool, device=device).tril(total - n - window - unseen)
    far[:, -n:] |= _triangle(device)[:n, :n] != 0
    return tuple(left), torch.zeros(n, kept, device=device).masked_fill_(far, -math.inf)


def _pick(heads: Tensor, stretches: Stretches) -> Tensor:
    """(heads, N, D) -> (heads, keys, D)"""
    if len(stretches) == 1:
        return heads[:, stretches[0]]
    return torch.cat([heads[:, stretch] for stretch in stretches], dim=1)


def _add(heads: Tensor, stretches: Stretches, gradient: Tensor) -> None:
    begin = 0
    for stretch in stretches:
        end = begin + stretch.stop - stretch.start
        heads[:, stretch] += gradient[:, begin:end]
        begin = end


def _grouped(queries: Tensor, kv_heads: int) -> Tensor:
    """(H, n, D) -> (K, H / K * n, D): the queries that share a head of keys, one after the other."""
    return queries.reshape(kv_heads, -1, queries.shape[-1])


def _weights(query: Tensor, key: Tensor, hidden: Tensor, scores: Scores) -> tuple[Tensor, Tensor | None]:
    """Scaled (H, n, D) and (K, keys, D) -> weights (K, H / K * n, keys), and the slope of the cap if there is one."""
    products = torch.bmm(_grouped(query, len(key)), key.transpose(1, 2))
    slope = None
    if scores.cap is not None:
        bent = torch.tanh(products / scores.cap)
        products, slope = bent * scores.cap, 1 - bent * bent
    n, columns = hidden.shape
    products.view(len(query), n, -1)[:, :, -columns:] += hidden
    return torch.softmax(products, dim=-1), slope


@cache
def _triangle(device: torch.device) -> Tensor:
    """(BLOCK, BLOCK) -inf where the key is after the query."""
    return torch.full((BLOCK, BLOCK), -math.inf, device=device).triu(1)


# ----------------------------------------------------------------------------------------------------------------------
# CUDA


class Ends(NamedTuple):
    """Rows as torch's kernel for rows of different lengths takes them; see Flat.ends."""

    queries: Tensor  # (B + 1,) int32: where each row's queries end
    keys: Tensor  # (B + 1,) int32: where its keys end
    longest: tuple[int, int]  # most queries and most keys of a row
    tokens: Tensor | None  # the token behind each key; None where the keys are the tokens, in order


def varlen_attention() -> Callable[..., Any]:
    """torch's kernel for rows of different lengths. Raises ImportError where torch has none."""
    from torch.nn.attention.varlen import varlen_attn

    kernel: Callable[..., Any] = varlen_attn
    return kernel


def attend_varlen(q: Tensor, k: Tensor, v: Tensor, ends: Ends, scores: Scores) -> Tensor:
    """q (N, H, D), k and v (N, K, D) -> (N, H * D) through that kernel; it takes bf16, and is causal from the end."""
    kernel = varlen_attention()
    known = inspect.signature(kernel).parameters
    options: dict[str, Any] = {}
    if "window_size" in known:  # how many positions before and after its own a query sees, -1 for all
        options["window_size"] = (-1 if scores.window is None else scores.window - 1, 0)
    elif scores.window is None:
        options["is_causal"] = True  # torch 2.10
    else:
        raise TypeError("this version of torch has no window for rows of different lengths")
    if "scale" in known:
        options["scale"] = scores.scale
    else:
        q = q * (scores.scale * math.sqrt(q.shape[-1]))
    if ends.tokens is not None:
        k, v = k[ends.tokens], v[ends.tokens]
    if q.shape[1] != k.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    out: Any = kernel(q.contiguous(), k.contiguous(), v.contiguous(), ends.queries, ends.keys, *ends.longest, **options)
    return out.flatten(1)


def varlen_takes(q: Tensor, scores: Scores) -> bool:
    """Whether these states can go through the kernel: block by block otherwise.

    It has no cap: the library behind it knows one, but torch's operator does not hand it on.
    """
    if not q.is_cuda or q.dtype == torch.float32 or scores.cap is not None:
        return False
    if q.shape[-1] % 8 or q.shape[-1] > 256:  # what flash attention is built for
        return False
    if not varlen_works(q.device):
        return False
    return scores.window is None or "window_size" in inspect.signature(varlen_attention()).parameters


_works: dict[torch.device, bool] = {}


def varlen_works(device: torch.device) -> bool:
    """Whether the kernel is there and agrees with BlockAttention, forward and backward, on rows with shared keys.

    Tried once for each device, in the same way whoever asks first: under inference mode too, where a gradient could
    not be computed. Only what the kernel itself did is remembered: a device without memory to spare is tried again.
    """
    if device not in _works:
        try:
            _works[device] = _compare(device)
        except torch.OutOfMemoryError:
            return False
    return _works[device]


def _compare(device: torch.device) -> bool:
    def results(attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
        fused = values.clone().requires_grad_()
        out = attend(*split_heads(fused, 2, 2))
        (gradient,) = torch.autograd.grad(out.float().square().sum(), fused)
        return [out.detach().float(), gradient.float()]

    scores = Scores(1 / 8)
    # two tokens that all rows begin with, and rows of 3, 7 and 1 more
    spans = [(slice(0, 2), ()), *((slice(b, e), (slice(0, 2),)) for b, e in ((2, 5), (5, 12), (12, 13)))]
    blocks = [(own, own, earlier) for own, earlier in spans]
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        random = torch.Generator().manual_seed(0)
        values = torch.randn(13, 3 * 2 * 64, generator=random).to(device, torch.bfloat16)
        ends = ends_of(spans, device)
        expected = results(lambda q, k, v: attend_blocks(q, k, v, blocks, scores))
        try:
            tried = results(lambda q, k, v: attend_varlen(q, k, v, ends, scores))
        except torch.OutOfMemoryError:
            raise
        except (ImportError, RuntimeError, TypeError) as error:
            return _says_why(one_line(f"{type(error).__name__}: {error}", 80))
    for what, ours, theirs, most in zip(("outputs", "gradients"), expected, tried, (0.05, 0.2), strict=True):
        if not torch.allclose(ours, theirs, atol=most):
            return _says_why(f"{what} differ by {(ours - theirs).abs().max():.2g}")
    return True


def _says_why(why: str) -> bool:
    print(f"ift: attention row by row, since torch's own for rows of different lengths fails here ({why})", flush=True)
    return False


def ends_of(spans: Sequence[tuple[slice, Stretches]], device: torch.device) -> Ends:
    """Of rows given as their own tokens and the earlier ones that they see too."""
    queries = [own.stop - own.start for own, _ in spans]
    keys = [sum(part.stop - part.start for part in (*earlier, own)) for own, earlier in spans]
    ends = [torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32) for lengths in (queries, keys)]
    tokens = None
    if any(earlier for _, earlier in spans):
        parts = [torch.arange(part.start, part.stop) for own, earlier in spans for part in (*earlier, own)]
        tokens = torch.cat(parts).to(device)
    return Ends(ends[0].to(device), ends[1].to(device), (max(queries), max(keys)), tokens)
