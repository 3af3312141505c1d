"""Byte-level byte-pair encoding: a vocabulary from texts, and the merge list behind a vocabulary.

Byte-pair encoding of words is Sennrich et al. 2016 (arXiv:1508.07909), on bytes as in GPT-2 (Radford et al. 2019): text
is cut into words, a word starts as single bytes, and the pair of neighbours seen most often becomes one token, again
and again. A vocabulary is `ranks`, from the bytes of a token to its rank: the rank is the order of merging and the id.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

import regex

# where GPT-2 cuts text into words, in the possessive form that tiktoken uses: same pieces, less backtracking
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

Pair = tuple[bytes, bytes]


def byte_to_unicode() -> dict[int, str]:
    """The character that stands for a byte in GPT-2's vocabulary files, in the order of GPT-2's ids 0 to 255.

    65 -> "A", 32 (space) -> "Ġ". Latin-1 characters that can be seen stand for themselves and come first; the other 68
    bytes take the characters from 256 on.
    """
    seen = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + i) for i, byte in enumerate(unseen)}


def train_bpe(texts: Iterable[str], *, size: int) -> dict[bytes, int]:
    """`size` tokens with their ranks: the 256 bytes in GPT-2's order, then merges; fewer if nothing is left to merge.

    Of pairs seen equally often the one whose bytes sort first is merged, so equal texts give equal ranks.
    """
    ranks = {bytes([byte]): rank for rank, byte in enumerate(byte_to_unicode())}
    frequency = Counter(word for text in texts for word in regex.findall(GPT2_PATTERN, text))
    times = list(frequency.values())
    words = [_bytes(word.encode()) for word in frequency]
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)  # words that hold the pair, or once did

    def count(place: int, sign: int) -> None:
        for pair in pairwise(words[place]):
            counts[pair] += sign * times[place]
            places[pair].add(place)

    for place in range(len(words)):
        count(place, 1)
    while len(ranks) < size and (most := max(counts.values(), default=0)):
        pair = min(pair for pair, n in counts.items() if n == most)
        ranks.setdefault(b"".join(pair), len(ranks))  # another pair may have spelled the same token already
        for place in places.pop(pair):
            count(place, -1)
            words[place] = _merge(words[place], pair)
            count(place, 1)
        del counts[pair]
    return ranks


def merges(ranks: dict[bytes, int]) -> list[Pair]:
    """The pairs that were merged, in order: what tokenizer.json and merges.txt list, and tiktoken leaves out.

    The last merge of a token is found by encoding its bytes with the tokens of lower rank, which leaves two parts.
    Raises ValueError for a token that no such merge gives.
    """
    pairs: list[Pair] = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = _bytes(token)
        while len(parts) > 2:
            lowest, pair = min((ranks.get(left + right, rank), (left, right)) for left, right in pairwise(parts))
            if lowest >= rank:
                break
            parts = _merge(parts, pair)
        if len(parts) != 2:
            raise ValueError(f"token {rank} {token!r}: not made by merging two tokens of lower rank")
        pairs.append((parts[0], parts[1]))
    return pairs


def _bytes(word: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in word]


def _merge(parts: list[bytes], pair: Pair) -> list[bytes]:
    """Every occurrence of the pair as one part, from the left: (a, a) in a a a -> aa a."""
    left, right = pair
    merged: list[bytes] = []
    for part in parts:
        if part == right and merged and merged[-1] == left:
            merged[-1] = left + right
        else:
            merged.append(part)
    return merged
