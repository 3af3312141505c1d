"""How likely a model finds given tokens after others: many short questions, few forwards.

S positions that are asked about, C channels. Rows lie flat without padding. What neighbours in the order of words begin
with is computed once (layout.Tree): the solved examples before all questions of a task, the question before each of its
choices. Logits exist for a chunk of the positions that are asked about, and for no others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ift import stops
from ift.model.gpt import GPT
from ift.model.layouts import Tree
from ift.model.linear import prepared

CHUNK = 512  # positions whose logits exist together: 103 MB of GPT-2's vocabulary
TILE = 32  # of them that go through the softmax together on a CPU: they stay in its cache
WORTH = 8  # tokens that rows must have in common for a stretch of their own

Window = tuple[np.ndarray, np.ndarray]  # tokens that are given (one at least), and those that are scored
Answer = tuple[float, bool]  # log-likelihood in fp32, and whether each token is the model's first choice


def log_likelihoods(
    model: GPT,
    windows: Sequence[Window],
    *,
    vocab_size: int,
    batch_tokens: int,
    ended: Callable[[dict[int, Answer]], None] = lambda answers: None,
) -> list[Answer]:
    """Of each (given, scored), together at most one token longer than the context; both have a token at least.

    vocab_size: tokens that there are; a model may have room for more
    batch_tokens: computed together; what rows share counts once
    ended: called after each batch with the answers that it gave, by number of the window
    Raises Stopped between two batches if that was asked for.
    """
    asked: dict[bytes, list[int]] = defaultdict(list)  # row -> windows that look at its last positions
    for number, (given, scored) in enumerate(windows):
        asked[_pack(np.concatenate([given, scored[:-1]]))].append(number)
    answers: dict[int, Answer] = {}
    model.eval()
    for rows in _batches(sorted(asked), batch_tokens):
        stops.check("between two batches of questions")
        wanted = [(row, number) for row, packed in enumerate(rows) for number in asked[packed]]
        targets = [windows[number][1] for _, number in wanted]
        with prepared(model):
            found = _ask(model, [_unpack(row) for row in rows], [row for row, _ in wanted], targets, vocab_size)
        new = dict(zip((number for _, number in wanted), found, strict=True))
        answers |= new
        ended(new)
    return [answers[number] for number in range(len(windows))]


def _pack(ids: np.ndarray) -> bytes:
    """Big-endian, so that the order of the bytes is that of the tokens: rows that begin alike sort side by side."""
    return ids.astype(">u4").tobytes()


def _unpack(row: bytes) -> np.ndarray:
    return np.frombuffer(row, dtype=">u4").astype(np.int64)


def _batches(rows: Sequence[bytes], batch_tokens: int) -> Iterator[list[bytes]]:
    """Neighbours, as many as fit. A row that is longer than a batch is one."""
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
    """Tokens that both begin with; fewer than are worth it count as none."""
    most = min(len(first), len(second))
    differs = np.flatnonzero(first[:most] != second[:most])
    common = int(differs[0]) if len(differs) else most
    return common if common >= WORTH else 0


def branches(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, Tree, list[np.ndarray]]:
    """Different rows in order -> their (N,) flat tokens, what each may see, and where each row's tokens stand there."""
    shared = [_common(*neighbours) for neighbours in pairwise(rows)]  # by a row and the next
    tokens: list[np.ndarray] = []
    lengths: list[int] = []
    parents: list[int] = []
    places: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(rows)
    total = 0
    # rows from `first` to `last` have their first `depth` tokens, which stand at `way`, in the stretches up to `parent`
    todo = [(0, len(rows) - 1, 0, -1, np.empty(0, dtype=np.int64))]
    while todo:
        first, last, depth, parent, way = todo.pop()
        begin = first
        for row in range(first, last + 1):
            if row < last and shared[row] >= depth + WORTH:
                continue
            depth_after = min(shared[begin:row], default=len(rows[row]))
            mine, after = parent, way
            if depth_after > depth:
                mine = len(lengths)
                tokens.append(rows[begin][depth:depth_after])
                lengths.append(depth_after - depth)
                parents.append(parent)
                after = np.concatenate([way, np.arange(total, total + lengths[-1])])
                total += lengths[-1]
            if begin == row:
                places[row] = after
            else:
                todo.append((begin, row, depth_after, mine, after))
            begin = row + 1
    return np.concatenate(tokens), Tree(lengths, parents), places


@torch.inference_mode()
def _ask(
    model: GPT, rows: Sequence[np.ndarray], of: Sequence[int], targets: Sequence[np.ndarray], vocab_size: int
) -> list[Answer]:
    """What the last len(targets[i]) positions of row of[i] say of targets[i]."""
    device = model.device
    tokens, tree, places = branches(rows)
    positions, state = np.unique(
        np.concatenate([places[row][-len(wanted) :] for row, wanted in zip(of, targets, strict=True)]),
        return_inverse=True,
    )
    hidden = model.hidden(torch.from_numpy(tokens).to(device), tree)[torch.from_numpy(positions).to(device)]
    logprobs, greedy = _said(model, hidden, state, np.concatenate(targets), vocab_size)
    begins = np.cumsum([0, *(len(wanted) for wanted in targets[:-1])])
    sums, all_greedy = np.add.reduceat(logprobs, begins), np.logical_and.reduceat(greedy, begins)
    return list(zip(sums.tolist(), all_greedy.tolist(), strict=True))


def _said(
    model: GPT, hidden: Tensor, state: np.ndarray, targets: np.ndarray, vocab_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(S, C) states, targets and the state that says each -> log-probability of each, and whether it is the largest."""
    order = np.argsort(state, kind="stable")
    logprobs, greedy = np.empty(len(targets)), np.empty(len(targets), dtype=bool)
    for begin in range(0, len(hidden), CHUNK):
        pairs = order[slice(*np.searchsorted(state[order], (begin, begin + CHUNK)))]
        logits = model.logits(hidden[begin : begin + CHUNK])[:, :vocab_size]
        at = torch.from_numpy(state[pairs] - begin).to(hidden.device)
        target = torch.from_numpy(targets[pairs]).to(hidden.device)
        tiles = [tile.float() for tile in torch.split(logits, TILE if hidden.device.type == "cpu" else CHUNK)]
        total = torch.cat([tile.logsumexp(dim=-1) for tile in tiles])
        largest = torch.cat([tile.argmax(dim=-1) for tile in tiles])
        logprobs[pairs] = (logits[at, target].float() - total[at]).double().cpu().numpy()
        greedy[pairs] = (largest[at] == target).cpu().numpy()
    return logprobs, greedy
