"""How likely a model finds given tokens after others: many short questions, few forwards.

S positions that predict a scored token, T scored tokens, C channels. Rows lie flat without padding, in lexicographic
order, and what neighbours begin with is computed once (layouts.Tree): the solved examples before all questions of a
task, the question before each of its choices. Logits exist for a chunk of the S positions, and for no others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ift import stops
from ift.data.batches import WORTH
from ift.data.contract.examples import Example
from ift.generation.likely import Likely, likeliest
from ift.model.gpt import GPT
from ift.model.layouts import Tree
from ift.model.linear import prepared

CHUNK = 512  # positions whose logits exist together: 103 MB of GPT-2's vocabulary
TILE = 32  # of them that go through the softmax together on a CPU: they stay in its cache

Window = tuple[np.ndarray, np.ndarray]  # tokens that are given (one at least), and those that are scored
Likelihood = tuple[float, bool]  # log-likelihood in fp32, and whether each token is the model's first choice


def log_likelihoods(
    model: GPT,
    windows: Sequence[Window],
    *,
    batch_tokens: int,
    ended: Callable[[dict[int, Likelihood]], None] = lambda scores: None,
) -> list[Likelihood]:
    """Of each (given, scored), together at most one token longer than the context; both have a token at least.

    The softmax is over all that the head has, rows that are no token among it: as in training, and in transformers.

    batch_tokens: computed together; what rows share counts once
    ended: called after each batch with its likelihoods, by number of the window
    Raises Stopped between two batches where a signal came to stop the run.
    """
    windows_of: dict[bytes, list[int]] = defaultdict(list)  # row -> windows that are scored at its last positions
    for number, (given, scored) in enumerate(windows):
        windows_of[_pack(np.concatenate([given, scored[:-1]]))].append(number)
    likelihoods: dict[int, Likelihood] = {}
    model.eval()
    with prepared(model):
        for batch in _batches(sorted(windows_of), batch_tokens, model.config.border):
            stops.check("between two batches of questions")
            numbers = [number for packed in batch for number in windows_of[packed]]
            row_of = [row for row, packed in enumerate(batch) for _ in windows_of[packed]]
            targets = [windows[number][1] for number in numbers]
            scores = _score(model, [_unpack(packed) for packed in batch], row_of, targets)
            new = dict(zip(numbers, scores, strict=True))
            likelihoods |= new
            ended(new)
    return [likelihoods[number] for number in range(len(windows))]


def _pack(ids: np.ndarray) -> bytes:
    """Big-endian, so that the order of the bytes is that of the tokens: rows that begin alike sort side by side."""
    return ids.astype(">u4").tobytes()


def _unpack(row: bytes) -> np.ndarray:
    return np.frombuffer(row, dtype=">u4").astype(np.int64)


def _batches(rows: Sequence[bytes], batch_tokens: int, border: int | None = None) -> Iterator[list[bytes]]:
    """Neighbours, as many as fit. A row that is longer than a batch is one.

    border: rows of more tokens share nothing with others, whose positions turn otherwise (GPTConfig.border)
    """
    if border is not None:
        for longer in (False, True):
            yield from _batches([row for row in rows if (len(row) // 4 > border) is longer], batch_tokens)
        return
    batch: list[bytes] = []
    tokens = 0
    for row in rows:
        more = len(row) // 4 - (_common(_unpack(batch[-1]), _unpack(row)) if batch else 0)
        if batch and tokens + more > batch_tokens:
            yield batch
            batch, tokens, more = [], 0, len(row) // 4
        batch.append(row)
        tokens += more
    if batch:
        yield batch


def _common(first: np.ndarray, second: np.ndarray) -> int:
    """Number of tokens that both begin with; fewer than WORTH count as none."""
    most = min(len(first), len(second))
    differs = np.flatnonzero(first[:most] != second[:most])
    common = int(differs[0]) if len(differs) else most
    return common if common >= WORTH else 0


@dataclass(frozen=True)
class _Group:
    """Rows from `first` to `last` begin with the same `depth` tokens, which have their places in the layout."""

    first: int
    last: int
    depth: int
    stretch: int  # number of the last stretch of them, -1 where depth is 0
    places: np.ndarray  # (depth,) where they stand among the flat tokens


def branches(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, Tree, list[np.ndarray]]:
    """Different rows in order -> (N,) flat tokens, their layout, and the places of each row's tokens among them."""
    shared = [_common(*neighbours) for neighbours in pairwise(rows)]  # tokens that a row and the next begin with
    tokens: list[np.ndarray] = []
    lengths: list[int] = []
    parents: list[int] = []
    places = [np.empty(0, dtype=np.int64)] * len(rows)
    total = 0
    groups = [_Group(first=0, last=len(rows) - 1, depth=0, stretch=-1, places=places[0])]
    while groups:
        group = groups.pop()
        for first, last in _divide(group, shared):
            depth = min(shared[first:last], default=len(rows[last]))
            part = _Group(first, last, depth, group.stretch, group.places)
            if depth > group.depth:
                more = depth - group.depth
                new_places = np.concatenate([group.places, np.arange(total, total + more)])
                part = _Group(first, last, depth, stretch=len(lengths), places=new_places)
                tokens.append(rows[first][group.depth : depth])
                lengths.append(more)
                parents.append(group.stretch)
                total += more
            if first == last:
                places[first] = part.places
            else:
                groups.append(part)
    return np.concatenate(tokens), Tree(lengths, parents), places


def _divide(group: _Group, shared: Sequence[int]) -> Iterator[tuple[int, int]]:
    """First and last row of each part of a group whose rows go on alike, long enough for a stretch of their own."""
    first = group.first
    for row in range(group.first, group.last + 1):
        if row == group.last or shared[row] < group.depth + WORTH:
            yield first, row
            first = row + 1


@torch.inference_mode()
def _score(
    model: GPT, rows: Sequence[np.ndarray], row_of: Sequence[int], targets: Sequence[np.ndarray]
) -> list[Likelihood]:
    """Likelihood of each targets[i], predicted at the last len(targets[i]) positions of row row_of[i]."""
    device = model.device
    tokens, tree, places = branches(rows)
    positions, state = np.unique(
        np.concatenate([places[row][-len(target) :] for row, target in zip(row_of, targets, strict=True)]),
        return_inverse=True,
    )
    hidden = model.hidden(torch.from_numpy(tokens).to(device), tree)[torch.from_numpy(positions).to(device)]
    logprobs, greedy = _token_logprobs(model, hidden, state, np.concatenate(targets))
    begins = np.cumsum([0, *(len(target) for target in targets[:-1])])
    sums, all_greedy = np.add.reduceat(logprobs, begins), np.logical_and.reduceat(greedy, begins)
    return list(zip(sums.tolist(), all_greedy.tolist(), strict=True))


def _token_logprobs(
    model: GPT, hidden: Tensor, state: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(S, C) states, and (T,) targets each with the number of its state -> (T,) log-probabilities, and whether each
    target is the most likely token."""
    order = np.argsort(state, kind="stable")
    logprobs, greedy = np.empty(len(targets)), np.empty(len(targets), dtype=bool)
    for begin in range(0, len(hidden), CHUNK):
        pairs = order[slice(*np.searchsorted(state[order], (begin, begin + CHUNK)))]
        logits = model.logits(hidden[begin : begin + CHUNK], every_id=True)
        at = torch.from_numpy(state[pairs] - begin).to(hidden.device)
        target = torch.from_numpy(targets[pairs]).to(hidden.device)
        tiles = [tile.float() for tile in torch.split(logits, TILE if hidden.device.type == "cpu" else CHUNK)]
        total = torch.cat([tile.logsumexp(dim=-1) for tile in tiles])
        largest = torch.cat([tile.argmax(dim=-1) for tile in tiles])
        logprobs[pairs] = (logits[at, target].float() - total[at]).double().cpu().numpy()
        greedy[pairs] = (largest[at] == target).cpu().numpy()
    return logprobs, greedy


@torch.inference_mode()
def token_likelihoods(
    model: GPT, rows: Sequence[Sequence[int]], *, top: int, batch_tokens: int = 4096
) -> list[list[Likely]]:
    """How likely each token of a row is after those before it, from the second on; last, the likeliest next token.

    A row has a token at least, and no more than the context; top: how many of the likeliest tokens stand beside each.
    The model is in evaluation mode; whoever calls holds `prepared(model)`.
    """
    packed = [_pack(np.asarray(row)) for row in rows]
    found: dict[bytes, list[Likely]] = {}
    for batch in _batches(sorted(set(packed)), batch_tokens, model.config.border):
        unpacked = [_unpack(row) for row in batch]
        tokens, tree, places = branches(unpacked)
        hidden = model.hidden(torch.from_numpy(tokens).to(model.device), tree)
        for name, row, place in zip(batch, unpacked, places, strict=True):
            found[name] = list(_each_token(model, hidden, row, place, top))
    return [found[name] for name in packed]


def _each_token(model: GPT, hidden: Tensor, row: np.ndarray, places: np.ndarray, top: int) -> Iterator[Likely]:
    """places: of the row's tokens among the (N, C) states."""
    for begin in range(0, len(row), CHUNK):
        at = torch.from_numpy(places[begin : begin + CHUNK]).to(hidden.device)
        logits = model.logits(hidden[at], every_id=True)
        following = torch.from_numpy(row[begin + 1 : begin + 1 + len(at)]).to(hidden.device)
        if len(following) < len(at):
            likeliest_next = logits[-1:, : model.config.tokens].float().argmax(dim=-1)
            following = torch.cat([following, likeliest_next])
        yield from likeliest(logits, following, top, model.config.tokens).likely([top] * len(at))


def reference_losses(
    model: GPT, examples: Sequence[Example], *, end_of_text: int, batch_tokens: int = 4096
) -> list[float | None]:
    """Nats per token of each row's last response, with its end-of-text where that is learnt; None where none is.

    For rows of one response it is the loss that validation counts, of each row by itself.
    """
    windows: dict[int, Window] = {}
    for number, example in enumerate(examples):
        learnt = np.flatnonzero(example.supervised)
        if len(learnt) and learnt[-1] == len(example.ids) - 1:
            before = np.flatnonzero(~example.supervised)
            begin = max(1, int(before[-1]) + 1 if len(before) else 0)
            end = [end_of_text] if example.ends else []
            scored = np.concatenate([example.ids[begin:], np.array(end, dtype=example.ids.dtype)])
            if len(scored):
                windows[number] = example.ids[:begin], scored
    found = log_likelihoods(model, list(windows.values()), batch_tokens=batch_tokens)
    losses: list[float | None] = [None] * len(examples)
    for (number, (_, scored)), (total, _) in zip(windows.items(), found, strict=True):
        losses[number] = max(0.0, -total / len(scored))  # a sum of rounded numbers may be a hair above zero
    return losses
