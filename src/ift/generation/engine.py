"""Batched decoding with a KV cache: token ids in, token ids out. It knows no text and no template.

Nothing is padded, so a batched answer is the answer of the row alone: prompts are computed one after the other as flat
tokens, what they all begin with once, and each row then grows in a place of its own until it ends and another takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ift.generation.cache import Cache, Prefill, Step, slots_that_fit
from ift.model.gpt import GPT
from ift.model.linear import prepared

CHECK_EVERY = 8  # tokens between looks at who has ended, on a device that a look would hold up
PREFILL_TOKENS = 4096  # of prompts that are computed together

Until = Callable[[list[int]], bool]


@dataclass(frozen=True)
class Generated:
    ids: list[int]  # without the end-of-text
    stop_reason: (
        str  # "end" (the model ended), "stop" (`until`), "length" (max_new_tokens), "context" (no position left)
    )


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy. top_k and top_p (Holtzman et al. 2020) narrow the choice before it is made."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


@dataclass
class _Row:
    index: int  # in the list of prompts
    prompt: Sequence[int]
    room: int  # positions of the context after the prompt
    limit: int  # max_new_tokens
    random: np.random.Generator | None
    ids: list[int] = field(default_factory=list)
    stop_reason: str | None = None

    @property
    def asks(self) -> int:
        """How often the model may be asked yet: at the last position of the context too, for it might be the end."""
        return min(self.limit, self.room + 1) - len(self.ids)

    @property
    def answer(self) -> Generated:
        return Generated(self.ids, self.stop_reason or "")

    @property
    def last(self) -> int:
        """Position of the newest token."""
        return len(self.prompt) + len(self.ids) - 1

    def take(self, tokens: Sequence[int], end_of_text: int, until: Until | None) -> None:
        for token in tokens:
            if token == end_of_text:
                self.stop_reason = "end"
            elif len(self.ids) == self.room:
                self.stop_reason = "context"
            else:
                self.ids.append(token)
                if until and until(self.ids):
                    self.stop_reason = "stop"
                elif len(self.ids) == self.limit:
                    self.stop_reason = "length"
            if self.stop_reason:
                return


@torch.inference_mode()
def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    end_of_text: int,
    max_new_tokens: int,
    sampling: Sampling = Sampling(),
    batch_size: int | None = None,
    check_every: int | None = None,
    until: Until | None = None,
    streams: Sequence[int] | None = None,
    ended: Callable[[int, Generated], None] = lambda place, answer: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[Generated]:
    """Continue each prompt until end-of-text, max_new_tokens or the end of the context; answers in the given order.

    A prompt of n tokens is 1 <= n <= context_length. Sampled answers depend on the seed and the place of the prompt in
    the list, never on the rows computed beside it. progress is called with the number of rows that have just ended.

    batch_size: rows that are computed together; prompts take the places of rows that have ended. None: as many as fit
    check_every: tokens between looks at who has ended; None: 1 on a CPU, CHECK_EVERY on a GPU
    until: asked after each token of a row, with all its tokens so far: whether the row ends here
    streams: numbers of the prompts that decide what is sampled; None: their places in the list
    ended: called as each row ends, with its place in the list and its answer
    """
    if not prompts:
        return []
    device, context = model.device, model.config.context_length
    check_every = check_every or (1 if device.type == "cpu" else CHECK_EVERY)
    sampled = sampling.temperature > 0
    rows = [
        _Row(i, prompt, context - len(prompt), max_new_tokens, _stream(sampling.seed, stream) if sampled else None)
        for i, (prompt, stream) in enumerate(zip(prompts, streams or range(len(prompts)), strict=True))
    ]
    waiting = deque(sorted(rows, key=lambda row: len(row.prompt)))  # of one length: they see as much, and end together
    capacity = min(context, max(map(len, prompts)) + max_new_tokens)
    slots = min(batch_size or slots_that_fit(model, capacity), len(rows))
    was_training = model.training
    model.eval()
    casts = ExitStack()  # each weight is cast once, and not for each token
    try:
        casts.enter_context(prepared(model))
        cache = Cache(model, slots, capacity)
        prefix = _prefill_common(model, cache, prompts)
        active: list[_Row] = []  # row b is in slot b of the cache
        hidden = torch.empty(0, model.config.n_embd, device=device)  # (n, C) state at the newest token of each
        while waiting or active:
            free = slots - len(active)
            if waiting and free >= min(len(waiting), max(1, slots // 4)):  # a few at a time: weights are read once
                joining = _take(waiting, free, prefix)
                hidden = torch.cat([hidden, _prefill(model, cache, len(active), joining, prefix)])
                active += joining
            tokens = _ask(model, cache, active, hidden, sampling, min(check_every, *(row.asks for row in active)))
            for row, said in zip(active, tokens.tolist(), strict=True):
                row.take(said, end_of_text, until)
            if left := _leave(active, cache):
                for row in left:
                    ended(row.index, row.answer)
                progress(len(left))
            if active:
                newest = torch.tensor([row.ids[-1] for row in active], device=device)
                hidden = model.hidden(newest, _step(cache, active))
            else:
                hidden = hidden[:0]
    finally:
        casts.close()
        model.train(was_training)
    return [row.answer for row in rows]


def _ask(model: GPT, cache: Cache, active: Sequence[_Row], hidden: Tensor, sampling: Sampling, times: int) -> Tensor:
    """(n, times) next tokens of the active rows. Nothing waits for the device meanwhile."""
    noise: Tensor | None = None
    if sampling.temperature > 0:
        drawn = np.stack([row.random.random(times) for row in active if row.random is not None])
        noise = torch.from_numpy(drawn).to(hidden.device)
    said: list[Tensor] = []
    for time in range(times):
        if time:
            hidden = model.hidden(said[-1], _step(cache, active, time))
        said.append(choose(model.logits(hidden).float(), sampling, None if noise is None else noise[:, time]))
    return torch.stack(said, dim=1)


def _step(cache: Cache, active: Sequence[_Row], more: int = 0) -> Step:
    """more: tokens that the rows have been given on the device, and not yet here."""
    at = [row.last + more for row in active]
    return Step(cache, torch.tensor(at, device=cache.keys[0].device), max(at) + 1)


def _leave(active: list[_Row], cache: Cache) -> list[_Row]:
    """Rows that have ended go; the last one takes each free place, so that rows in use stay first."""
    left = [row for row in active if row.stop_reason is not None]
    for place in reversed(range(len(active))):
        if active[place].stop_reason is not None:
            last = active.pop()
            if place < len(active):
                cache.copy(len(active), slice(place, place + 1), last.last)
                active[place] = last
    return left


def _take(waiting: deque[_Row], places: int, prefix: int) -> list[_Row]:
    """The next prompts, for so many places; those that are long come in several turns."""
    taken: list[_Row] = []
    tokens = 0
    while waiting and len(taken) < places and (not taken or tokens + len(waiting[0].prompt) - prefix <= PREFILL_TOKENS):
        taken.append(waiting.popleft())
        tokens += len(taken[-1].prompt) - prefix
    return taken


def _prefill_common(model: GPT, cache: Cache, prompts: Sequence[Sequence[int]]) -> int:
    """Compute what all prompts begin with, into every slot; return its length, which leaves each prompt a token."""
    first, last = (
        min(map(tuple, prompts)),
        max(map(tuple, prompts)),
    )  # in the order of words, so the most different ones
    most = min(map(len, prompts)) - 1 if len(prompts) > 1 else 0
    common = list(first[: next((i for i in range(most) if first[i] != last[i]), most)])
    if not common:
        return 0
    ids = torch.tensor(common, device=cache.keys[0].device)
    model.hidden(ids, Prefill(cache, 0, [len(common)], 0))
    cache.copy(0, slice(None), len(common))
    return len(common)


def _prefill(model: GPT, cache: Cache, first_slot: int, rows: Sequence[_Row], prefix: int) -> Tensor:
    """Compute the rows' prompts after the prefix, into slots from first_slot on; (n, C) state of each last token."""
    lengths = [len(row.prompt) - prefix for row in rows]
    ids = torch.tensor([token for row in rows for token in row.prompt[prefix:]], device=cache.keys[0].device)
    last = torch.tensor(lengths, device=ids.device).cumsum(0) - 1
    return model.hidden(ids, Prefill(cache, first_slot, lengths, prefix), last)


def _stream(seed: int, row: int) -> np.random.Generator:
    """Uniform numbers of one row of the list, whatever is computed beside it."""
    return np.random.default_rng([seed, row])


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
