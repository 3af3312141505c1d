"""Batched decoding with a KV cache: token ids in, token ids out. It knows no text and no template.

    engine = Engine(model, slots=8, capacity=1024)
    engine.submit(Request(prompt, max_new_tokens=100, end_tokens={50256}, on_token=show))
    while engine.busy:
        engine.step()

Requests join and leave while others go on; `generate` answers a list of prompts at once. Nothing is padded, so an
answer does not depend on what is computed beside it: prompts are computed one after the other as flat tokens, and each
row then grows in a slot of its own until it ends and another takes the slot. Where a row grows over the border of a
longrope (GPTConfig.border), all of its positions turn otherwise from there on: it is computed anew, once.

n rows, C channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ift.generation.cache import Cache, Prefill, Step, slots_that_fit
from ift.generation.likely import Likely, Scores, likeliest
from ift.generation.sampling import GREEDY, Sampling, choose_each, penalise
from ift.model.gpt import GPT
from ift.model.linear import prepared

CHECK_EVERY = 8  # tokens between looks at who has ended, on a device that a look would hold up
PREFILL_TOKENS = 4096  # of prompts that are computed together while nobody waits for the next token
PIECE_TOKENS = 256  # the same while somebody does: on a CPU a piece takes about as long as a few tokens of a full batch

Until = Callable[[list[int]], bool]


@dataclass(frozen=True)
class Generated:
    """An answer. ids are without the end token.

    stop_reason  "end" (the model ended), "stop" (`until`), "length" (max_new_tokens), "context" (no position left),
                 "cancelled"
    """

    ids: list[int]
    stop_reason: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """
    prompt          token ids, one at least
    max_new_tokens  one at least
    end_tokens      the answer ends before the first of them
    until           called after each new token with all tokens of the answer: whether it ends here
    on_token        called with each token of the answer, in order; whoever gives it waits for the next token, so long
                    prompts of others are then computed in pieces
    on_end          called once, however the answer ends
    on_likely       called with how likely each token of the answer was, before `until` hears of it
    top             how many of the likeliest tokens on_likely gets beside it
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling = GREEDY
    end_tokens: Collection[int] = frozenset()
    until: Until | None = None
    on_token: Callable[[int], None] | None = None
    on_end: Callable[[Generated], None] | None = None
    on_likely: Callable[[Likely], None] | None = None
    top: int = 0


@dataclass(eq=False)
class _Row:
    """A request on its way."""

    number: int
    request: Request
    room: int  # positions after the prompt
    begins_shared: bool  # the prompt begins with the engine's prefix
    random: np.random.Generator | None
    computed: int = 0  # tokens of the prompt that are in the cache, where it comes in pieces
    ids: list[int] = field(default_factory=list)
    stop_reason: str | None = None
    reported: bool = False  # its end

    @property
    def length(self) -> int:
        return len(self.request.prompt)

    @property
    def streams(self) -> bool:
        return self.request.on_token is not None

    @property
    def tokens_left(self) -> int:
        """New tokens that may come yet. One more than there is room for: it might be the end."""
        return min(self.request.max_new_tokens, self.room + 1) - len(self.ids)

    @property
    def newest(self) -> int:
        return self.ids[-1] if self.ids else self.request.prompt[-1]

    @property
    def position(self) -> int:
        """Of the newest token."""
        return self.length + len(self.ids) - 1

    def take(self, tokens: Sequence[int], scores: Sequence[Likely | None]) -> None:
        """Append new tokens up to where the answer ends. scores: of each, where the request wants them."""
        request = self.request
        for token, likely in zip(tokens, scores, strict=True):
            if self.stop_reason is not None:  # a callback may cancel, too
                return
            if token in request.end_tokens:
                self.stop_reason = "end"
            elif len(self.ids) == self.room:
                self.stop_reason = "context"
            else:
                self.ids.append(token)
                try:
                    if likely and request.on_likely:
                        request.on_likely(likely)
                    stops = request.until is not None and request.until(self.ids)
                    if stops and self.stop_reason is None:
                        self.stop_reason = "stop"
                finally:  # whatever `until` raises, the row stays as long as it may be, and its token is handed on
                    if self.stop_reason is None and len(self.ids) == request.max_new_tokens:
                        self.stop_reason = "length"
                    if request.on_token:
                        request.on_token(token)

    def report_end(self) -> None:
        if not self.reported:
            self.reported = True
            if self.request.on_end:
                self.request.on_end(Generated(self.ids, self.stop_reason or ""))


class _Repeated:
    """Which tokens the prompt and the answer of each row hold so far, and the penalty of each row. On the device."""

    def __init__(self, rows: Sequence[_Row], model: GPT):
        self.seen = torch.zeros(len(rows), model.config.vocab_size, dtype=torch.bool, device=model.device)
        for held, row in zip(self.seen, rows, strict=True):
            if row.request.sampling.repetition_penalty is not None:
                held[torch.tensor([*row.request.prompt, *row.ids], device=model.device)] = True
        penalties = [row.request.sampling.repetition_penalty or 1.0 for row in rows]
        self.penalty = torch.tensor(penalties, device=model.device)[:, None]

    def penalised(self, logits: Tensor) -> Tensor:
        return penalise(logits, self.seen[:, : logits.shape[1]], self.penalty)

    def add(self, tokens: Tensor) -> None:
        self.seen.scatter_(1, tokens[:, None], True)


class Engine:
    """Requests that are answered side by side.

    slots        rows that are computed together; further requests wait their turn, first come, first served
    capacity     positions of a row, prompt and answer; at most the context length
    prefix       tokens that many prompts begin with: computed once. Other prompts are welcome
    check_every  tokens between looks at who has ended where nobody streams; None: 1 on a CPU, CHECK_EVERY on a GPU

    The model must be in evaluation mode. One thread calls all methods; callbacks may call `submit` and `cancel`. What a
    callback raises leaves `step` when all rows have got their tokens and ends; every request goes on.
    Whoever steps holds `prepared(model)`, or each token casts all weights anew.
    """

    def __init__(
        self, model: GPT, *, slots: int, capacity: int, prefix: Sequence[int] = (), check_every: int | None = None
    ):
        """Raises ValueError for no slots, a prefix that fills the capacity, and a model in training mode."""
        self.model, self.slots, self.capacity = model, slots, min(capacity, model.config.context_length)
        self.check_every = check_every or (1 if model.device.type == "cpu" else CHECK_EVERY)
        if slots < 1:
            raise ValueError(f"slots={slots}: must be 1 or more")
        if len(prefix) >= max(self.capacity, 1):
            raise ValueError(f"a prefix of {len(prefix)} tokens (must leave room in {self.capacity} positions)")
        self._refuse_training()
        self._prefix = list(prefix)
        self._holding: set[int] = set()  # slots whose first positions hold the prefix
        self._submitted = 0
        self._waiting: deque[_Row] = deque()
        self._partial: _Row | None = None  # its prompt is computed in pieces, in the last slot
        self._active: list[_Row] = []  # row b is in slot b of the cache
        with torch.inference_mode():
            self._cache = Cache(model, slots, self.capacity)
            if self._prefix:
                self._prefill(0, [self._prefix], computed=0)
                self._cache.copy(0, slice(None), len(self._prefix))
                self._holding = set(range(slots))

    @property
    def busy(self) -> bool:
        """Whether any request has not ended."""
        return bool(self._waiting or self._partial or any(row.stop_reason is None for row in self._active))

    def submit(self, request: Request) -> int:
        """Put a request at the end of the queue; return its number, for `cancel`.

        Raises ValueError for a prompt that is empty or longer than the capacity, and for max_new_tokens below 1.
        """
        length, shared = len(request.prompt), len(self._prefix)
        if not 1 <= length <= self.capacity:
            raise ValueError(f"a prompt of {length} tokens (must be 1 to {self.capacity})")
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={request.max_new_tokens}: must be 1 or more")
        begins_shared = 0 < shared < length and list(request.prompt[:shared]) == self._prefix
        begins_shared &= self._is_long(length) == self._is_long(shared)
        row = _Row(self._submitted, request, self.capacity - length, begins_shared, request.sampling.random())
        self._submitted += 1
        self._waiting.append(row)
        return row.number

    def cancel(self, number: int) -> bool:
        """End a request now, with the tokens it has; the next step gives its slot away. False if it has ended."""
        rows = [*self._active, *self._waiting, *([self._partial] if self._partial else [])]
        row = next((row for row in rows if row.number == number and row.stop_reason is None), None)
        if row is None:
            return False
        row.stop_reason = "cancelled"
        if row is self._partial:
            self._partial = None
        elif row not in self._active:
            self._waiting.remove(row)
        row.report_end()
        return True

    @torch.inference_mode()
    def step(self) -> None:
        """Let requests join, and give each row in a slot its next token.

        Where somebody streams, at most PIECE_TOKENS of prompts are computed; where nobody does, whole prompts, and up
        to check_every tokens for each row.
        """
        self._refuse_training()
        errors: list[BaseException] = []  # of callbacks
        try:
            self._advance(errors)
        finally:
            self._finish(errors)
        if errors:
            raise errors[0]

    def _refuse_training(self) -> None:
        if self.model.training:
            raise ValueError("the model is in training mode (call model.eval() first)")

    def _advance(self, errors: list[BaseException]) -> None:
        self._finish(errors)
        states: list[Tensor] = []  # (n, C) at the newest token of each row
        if self._active:
            newest = torch.tensor([row.newest for row in self._active], device=self.model.device)
            states.append(self.model.hidden(newest, self._layout()))
            for slot in self._at_the_border():
                states[0][slot] = self._compute_anew(slot)
        states += self._join()
        if not self._active:
            return
        tokens, scores = self._next_tokens(torch.cat(states))
        for row, new in zip(self._active, tokens.tolist(), strict=True):
            try:
                row.take(new, scores.get(row, [None] * len(new)))
            except BaseException as error:
                errors.append(error)

    # -- prompts -------------------------------------------------------------------------------------------------------

    def _join(self) -> list[Tensor]:
        """Compute prompts that wait, as far as a step may; (n, C) states of the rows that have joined, in a list."""
        streaming = any(row.streams for row in self._active)
        most = PIECE_TOKENS if streaming else PREFILL_TOKENS
        if self._partial is None:
            free = self.slots - len(self._active)
            if not self._waiting or free == 0:
                return []
            # a few at a time, since weights are read once for all; but nobody who streams waits for others to end
            if not (streaming or self._waiting[0].streams) and free < min(len(self._waiting), max(1, self.slots // 4)):
                return []
            computed = self._already_computed(self._waiting[0])
            if not (streaming and self._waiting[0].length - computed > most):
                return [self._join_whole(free, computed, most)]
            self._partial = self._waiting.popleft()
            self._partial.computed = computed
            self._give(self.slots - 1, computed)
        return self._continue_partial(self._partial, most)

    def _join_whole(self, free: int, computed: int, most: int) -> Tensor:
        """Requests that begin alike join together: one at least, and no more than `most` tokens."""
        rows: list[_Row] = []
        tokens = 0
        for row in islice(self._waiting, free):
            more = row.length - computed
            if rows and (tokens + more > most or self._already_computed(row) != computed):
                break
            rows.append(row)
            tokens += more
        first_slot = len(self._active)
        for slot in range(first_slot, first_slot + len(rows)):
            self._give(slot, computed)
        state = self._prefill(first_slot, [row.request.prompt[computed:] for row in rows], computed=computed)
        self._holding |= {slot for slot, row in enumerate(rows, start=first_slot) if row.begins_shared}
        for row in rows:  # not before: what failed can be tried again
            self._waiting.popleft()
            self._active.append(row)
        return state

    def _continue_partial(self, row: _Row, most: int) -> list[Tensor]:
        piece = row.request.prompt[row.computed : row.computed + most]
        state = self._prefill(self.slots - 1, [piece], computed=row.computed, total=row.length)
        row.computed += len(piece)
        if row.computed < row.length:
            return []
        self._partial = None
        if row.begins_shared:
            self._holding.add(self.slots - 1)
        self._move(self.slots - 1, len(self._active), row.length)
        self._active.append(row)
        return [state]

    def _already_computed(self, row: _Row) -> int:
        """Tokens at the beginning of the prompt that lie ready in some slot."""
        return len(self._prefix) if row.begins_shared and self._holding else 0

    def _give(self, slot: int, computed: int) -> None:
        """Make a slot ready for a prompt: with the prefix where the prompt goes on after it, else to be overwritten."""
        if not computed:
            self._holding.discard(slot)
        elif slot not in self._holding:
            self._cache.copy(min(self._holding), slice(slot, slot + 1), computed)
            self._holding.add(slot)

    def _prefill(
        self, first_slot: int, prompts: Sequence[Sequence[int]], *, computed: int, total: int | None = None
    ) -> Tensor:
        """Compute tokens of prompts into slots from first_slot on, after those that are there; (n, C) last states.

        total: tokens of the row, where this is a piece of one. A single row of many tokens is computed in pieces: what
        a forward holds is then bounded, its mask above all.
        """
        if len(prompts) == 1 and len(prompts[0]) > PREFILL_TOKENS:
            (row,), total = prompts, total or computed + len(prompts[0])
            for begin in range(0, len(row), PREFILL_TOKENS):
                piece = row[begin : begin + PREFILL_TOKENS]
                state = self._prefill(first_slot, [piece], computed=computed + begin, total=total)
            return state
        lengths = [len(prompt) for prompt in prompts]
        ids = torch.tensor([token for prompt in prompts for token in prompt], device=self.model.device)
        last = torch.tensor(lengths, device=ids.device).cumsum(0) - 1
        layout = Prefill(self._cache, first_slot, lengths, computed, [total] if total else None)
        return self.model.hidden(ids, layout, last)

    # -- rows that outgrow the context before it was stretched --------------------------------------------------------

    def _is_long(self, tokens: int) -> bool:
        border = self.model.config.border
        return border is not None and tokens > border

    def _at_the_border(self) -> list[int]:
        """Slots of rows whose newest token is the first one over it."""
        border = self.model.config.border
        return [slot for slot, row in enumerate(self._active) if row.ids and row.position == border]

    def _compute_anew(self, slot: int) -> Tensor:
        """(C,) state of the newest token of a row, all of whose keys and values are computed again."""
        row = self._active[slot]
        self._holding.discard(slot)
        return self._prefill(slot, [[*row.request.prompt, *row.ids]], computed=0)[0]

    # -- answers -------------------------------------------------------------------------------------------------------

    def _next_tokens(self, hidden: Tensor) -> tuple[Tensor, dict[_Row, list[Likely]]]:
        """(n, C) states -> (n, times) next tokens of the active rows, and how likely they were for those that ask.

        Nothing waits for the device meanwhile.
        """
        rows = self._active
        most = 1 if any(row.streams for row in rows) else self.check_every
        times = min(most, *(row.tokens_left for row in rows), *self._steps_to_the_border())
        samplings, noise = [row.request.sampling for row in rows], self._noise(times)
        repeated = _Repeated(rows, self.model) if any(s.repetition_penalty for s in samplings) else None
        asking = [slot for slot, row in enumerate(rows) if row.request.on_likely]
        top = max((rows[slot].request.top for slot in asking), default=0)
        tokens: list[Tensor] = []
        scores: list[Scores] = []
        for time in range(times):
            if time:
                hidden = self.model.hidden(tokens[-1], self._layout(time))
            u = None if noise is None else noise[:, time]
            every = self.model.logits(hidden, every_id=True)
            logits = every[..., : self.model.config.tokens].float()
            tokens.append(choose_each(repeated.penalised(logits) if repeated else logits, samplings, u))
            if repeated:
                repeated.add(tokens[-1])
            if asking:
                scores.append(likeliest(every[asking], tokens[-1][asking], top, self.model.config.tokens))
        found = [one.likely([rows[slot].request.top for slot in asking]) for one in scores]
        of_rows = {rows[slot]: [one[place] for one in found] for place, slot in enumerate(asking)}
        return torch.stack(tokens, dim=1), of_rows

    def _steps_to_the_border(self) -> list[int]:
        """Tokens that each shorter row may be given before its own are needed here, to compute it anew."""
        border = self.model.config.border
        return [] if border is None else [border - row.position for row in self._active if row.position < border]

    def _noise(self, times: int) -> Tensor | None:
        """(n, times) uniform numbers, each row's own; None where all rows are greedy."""
        if all(row.random is None for row in self._active):
            return None
        drawn = [row.random.random(times) if row.random else np.zeros(times) for row in self._active]
        return torch.from_numpy(np.stack(drawn)).to(self.model.device)

    def _layout(self, ahead: int = 0) -> Step:
        """ahead: tokens that the rows have been given on the device, and not yet here."""
        at = [row.position + ahead for row in self._active]
        return Step(self._cache, torch.tensor(at, device=self.model.device), max(at) + 1)

    def _finish(self, errors: list[BaseException]) -> None:
        """Take rows that have ended out of their slots; the last row fills each gap, so that rows in use stay first."""
        ended = [row for row in self._active if row.stop_reason is not None]
        for slot in reversed(range(len(self._active))):
            if self._active[slot].stop_reason is not None:
                last = self._active.pop()
                if slot < len(self._active):
                    self._move(len(self._active), slot, last.position)
                    self._active[slot] = last
        if ended:
            self._cache.give_back(self._positions_in_use)
        for row in ended:
            try:
                row.report_end()
            except BaseException as error:
                errors.append(error)

    @property
    def _positions_in_use(self) -> int:
        partial = self._partial.computed if self._partial else 0
        return max([1, len(self._prefix), partial, *(row.position + 1 for row in self._active)])

    def _move(self, source: int, target: int, length: int) -> None:
        """Bring what a slot holds into another."""
        if source == target:
            return
        self._cache.copy(source, slice(target, target + 1), length)
        if source in self._holding:
            self._holding.add(target)
        else:
            self._holding.discard(target)


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    end_of_text: int,
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    batch_size: int | None = None,
    check_every: int | None = None,
    until: Until | None = None,
    streams: Sequence[int] | None = None,
    ended: Callable[[int, Generated], None] = lambda place, answer: None,
    progress: Callable[[int], None] = lambda rows: None,
) -> list[Generated]:
    """Continue each prompt until end-of-text, max_new_tokens or the end of the context; answers in the given order.

    A prompt of n tokens is 1 <= n <= context_length (see fitting.py). Sampled answers depend on the seed and the place
    of the prompt in the list, never on the rows computed beside it.

    batch_size   rows that are computed together; None: as many as fit into memory
    check_every  tokens between looks at who has ended; None: 1 on a CPU, CHECK_EVERY on a GPU
    until        called after each token of a row, with all its tokens so far: whether the row ends here
    streams      numbers of the prompts that decide what is sampled; None: their places in the list
    ended        called as each row ends, with its place in the list and its answer
    progress     called with the number of rows that have just ended
    """
    if not prompts:
        return []
    answers: dict[int, Generated] = {}
    capacity = min(model.config.context_length, max(map(len, prompts)) + max_new_tokens)
    numbers = range(len(prompts)) if streams is None else streams
    was_training = model.training
    model.eval()

    def request(place: int) -> Request:
        def on_end(answer: Generated) -> None:
            answers[place] = answer
            ended(place, answer)

        return Request(
            prompt=prompts[place],
            max_new_tokens=max_new_tokens,
            sampling=replace(sampling, stream=numbers[place]),
            end_tokens={end_of_text, *model.stops},
            until=until,
            on_end=on_end,
        )

    try:
        with prepared(model):  # each weight is cast once, and not for each token
            engine = Engine(
                model,
                slots=min(batch_size or slots_that_fit(model, capacity), len(prompts)),
                capacity=capacity,
                prefix=common_prefix(prompts),
                check_every=check_every,
            )
            # rows of one length together: they attend to as many positions, and end together
            for place in sorted(range(len(prompts)), key=lambda place: len(prompts[place])):
                engine.submit(request(place))
            while engine.busy:
                before = len(answers)
                engine.step()
                if len(answers) > before:
                    progress(len(answers) - before)
    finally:
        model.train(was_training)
    return [answers[place] for place in range(len(prompts))]


def common_prefix(prompts: Sequence[Sequence[int]]) -> list[int]:
    """Tokens that all of several prompts begin with; each prompt has one more at least."""
    if len(prompts) < 2:
        return []
    # the lexicographic extremes share exactly what all prompts share
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    most = min(map(len, prompts)) - 1
    return list(first[: next((i for i in range(most) if first[i] != last[i]), most)])
