"""Batched decoding with a KV cache: token ids in, token ids out. It knows no text and no template.

Rows of different length share a batch without padding on the left, so a batched answer is the answer of the row alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ift.model.gpt import GPT, KVCache


@dataclass(frozen=True)
class Generated:
    ids: list[int]  # without the end-of-text
    stop_reason: str  # "end" (the model ended), "length" (max_new_tokens) or "context" (no position left)


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy. top_k and top_p (Holtzman et al. 2020) narrow the choice before it is made."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


@torch.inference_mode()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    end_of_text: int,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[Generated]:
    """Continue each prompt until end-of-text, max_new_tokens or the end of the context; answers in the given order.

    A prompt of n tokens is 1 <= n <= context_length. Sampled answers depend on the seed and the place of the prompt in
    the list, never on the batch. progress is called with the number of rows that a batch has finished.
    """
    was_training = model.training
    model.eval()
    try:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # neighbours of one length: little padding
        answers: dict[int, Generated] = {}
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            noise = _uniform(batch, max_new_tokens, sampling.seed) if sampling.temperature > 0 else None
            done = _generate_batch(model, [prompts[i] for i in batch], end_of_text, max_new_tokens, sampling, noise)
            answers.update(zip(batch, done, strict=True))
            progress(len(batch))
        return [answers[i] for i in range(len(prompts))]
    finally:
        model.train(was_training)


def in_dtype(model: GPT, dtype: torch.dtype) -> GPT:
    """The model itself, or a copy with its weights in another type (tied weights stay tied)."""
    if model.wte.weight.dtype == dtype:
        return model
    converted = {id(p): torch.nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, converted)


def _uniform(rows: Sequence[int], steps: int, seed: int) -> np.ndarray:
    """(B, steps) numbers in [0, 1): one stream for each row of the list, whatever batch it is in."""
    return np.stack([np.random.default_rng([seed, row]).random(steps) for row in rows])


def _generate_batch(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    end_of_text: int,
    max_new_tokens: int,
    sampling: Sampling,
    noise: np.ndarray | None,
) -> list[Generated]:
    device = model.wte.weight.device
    context = model.config.context_length
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    padded = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)

    cache = KVCache(lengths.to(device), min(context, padded.shape[1] + max_new_tokens))
    hidden = model.hidden(padded.to(device), cache)
    last = hidden[torch.arange(len(prompts), device=device), cache.lengths - 1]  # (B, C): the prompts' last tokens

    ids: list[list[int]] = [[] for _ in prompts]
    reasons = ["length"] * len(prompts)
    alive = list(range(len(prompts)))  # which prompt each row of the cache belongs to
    for step in range(max_new_tokens):
        u = None if noise is None else torch.from_numpy(noise[alive, step]).to(device)
        chosen = choose(model.lm_head(last).float(), sampling, u)
        going: list[int] = []
        for place, (row, token) in enumerate(zip(alive, chosen.tolist(), strict=True)):
            if token == end_of_text:
                reasons[row] = "end"
            elif len(prompts[row]) + len(ids[row]) == context:  # asked all the same: it might have been the end
                reasons[row] = "context"
            else:
                ids[row].append(token)
                going.append(place)
        if not going or step + 1 == max_new_tokens:
            break
        if len(going) < len(alive):  # finished rows leave, so the rest is computed without them
            keep = torch.tensor(going, device=device)
            cache.select(keep)
            chosen = chosen[keep]
            alive = [alive[place] for place in going]
        last = model.hidden(chosen[:, None], cache)[:, 0]
    return [Generated(answer, reason) for answer, reason in zip(ids, reasons, strict=True)]


def choose(logits: Tensor, sampling: Sampling, u: Tensor | None) -> Tensor:
    """(B, V) logits -> (B,) tokens; u (B,) uniform numbers in [0, 1) decide where temperature is above 0.

    Sampling inverts the cumulative distribution over tokens sorted by probability, so one number makes one choice.
    """
    if sampling.temperature == 0 or u is None:
        return logits.argmax(dim=-1)
    values, tokens = (logits / sampling.temperature).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k is not None:
        values, tokens = values[:, : sampling.top_k], tokens[:, : sampling.top_k]
    probability = values.double().softmax(dim=-1)
    if sampling.top_p is not None:
        before = probability.cumsum(dim=-1) - probability  # the mass of all that is likelier
        probability = probability.masked_fill(before >= sampling.top_p, 0.0)
    cumulative = probability.cumsum(dim=-1)
    place = torch.searchsorted(cumulative, u[:, None].double() * cumulative[:, -1:], right=True)
    return tokens.gather(1, place.clamp(max=tokens.shape[1] - 1))[:, 0]
