"""What a response shares with its reference, as a number and word by word. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

LONGEST = 1500  # words and spaces; texts longer than this together are not compared word by word, which takes n²


def rouge_l(response: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004), from 0 to 1, as torchmetrics counts them."""
    ours, right = (re.sub(r"[^a-z0-9]+", " ", text.lower()).split() for text in (response, reference))
    common = common_subsequence(ours, right)
    return 2 * common / (len(ours) + len(right)) if common else 0.0


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence. All of a at a time, as bits of a number (Hyyrö 2004)."""
    where: dict[str, int] = {}
    for i, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << i
    every = (1 << len(a)) - 1
    left = every
    for word in b:
        match = left & where.get(word, 0)
        left = ((left + match) | (left - match)) & every
    return len(a) - left.bit_count()


Pieces = list[tuple[bool, str]]  # (is it in both?, text); the texts join to the whole


def word_diff(reference: str, response: str) -> tuple[Pieces, Pieces]:
    """Both texts cut into what they share and what they do not, at borders of words."""
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (reference, response))
    if len(a) + len(b) > LONGEST:
        same = reference == response
        return [(same, reference)], [(same, response)]
    left: Pieces = []
    right: Pieces = []
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for pieces, words in ((left, a[i:j]), (right, b[k:m])):
            if words:
                pieces.append((kind == "equal", "".join(words)))
    return _joined(left), _joined(right)


def _joined(pieces: Pieces) -> Pieces:
    """A space between two words that are not shared is no shared word."""
    joined: Pieces = []
    for i, (shared, text) in enumerate(pieces):
        between = 0 < i < len(pieces) - 1 and not text.strip()
        shared = shared and not between
        if joined and joined[-1][0] == shared:
            joined[-1] = (shared, joined[-1][1] + text)
        else:
            joined.append((shared, text))
    return joined
