"""torch's kernel for rows of different lengths, on CUDA.

N tokens, D channels of a head, H heads of queries, K of keys and values.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ift.errors import one_line
from ift.model.attention import Scores, split_heads
from ift.model.block_attention import Plan, Stretches, attend_blocks


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
    plan = Plan([(own, own, earlier) for own, earlier in spans], (2, 2), None, device)
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        random = torch.Generator().manual_seed(0)
        values = torch.randn(13, 3 * 2 * 64, generator=random).to(device, torch.bfloat16)
        ends = ends_of(spans, device)
        expected = results(lambda q, k, v: attend_blocks(q, k, v, plan, scores))
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
