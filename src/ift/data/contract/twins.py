"""Rows that are nearly the same as another one, and training rows that share a long passage with an evaluation.

Two rows are twins where the cosine of their character-trigram counts is above 0.9. Comparing all pairs is hopeless for
many rows; MinHash with locality-sensitive hashing (Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, ch. 3)
proposes the pairs worth comparing, and the exact cosine decides. So no pair is reported that is none, and few are
missed.

N rows, B bands; the caller says what text of a row is compared.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import hypot

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

# A slot of two rows' MinHash is equal with the probability s that is the Jaccard similarity of their trigram sets. ROWS
# slots make a band, and a pair is a candidate where it shares one of the BANDS: 1 - (1 - s**ROWS)**BANDS. Long texts in
# one language have s = 0.4 and would all be candidates, so EQUAL of the 128 slots must be equal too (see _Comparison):
#   s =                   0.81       0.8        0.7     0.6    0.5    0.4     0.3
#   a band                0.9999999  0.9999999  0.9998  0.988  0.873  0.564   0.229
#   EQUAL of the slots    0.9999999  0.9999999  0.9996  0.840  0.100  0.0002  0
# For sets cosine 0.9 means s >= 0.81 (0.81 where one holds the other, 0.818 at equal size). Counts can have it at a
# lower s, where a trigram that both repeat outweighs many that differ: "aaaaaaaaab" and "aaaaaaaaac" have s = 0.33.
BANDS, ROWS, EQUAL = 32, 4, 72
HALF = np.uint64(32)
SEED = 1
WINDOW = 16  # candidates per row and band: see _candidates
PIECE = 1 << 16  # pairs that are looked at together; texts of four times as many characters
FAILED = 1 << 20  # remembered pairs that were compared and are no twins (100 MB)


def fold(text: str) -> str:
    """Without case, and every run of white space one space; three characters at least.

    A space at the end stays: a text "instruction | input" keeps the trigrams around its bar where the input is empty.
    """
    return re.sub(r"\s+", " ", text.casefold()).ljust(3, "\0")  # so that short texts have a trigram: themselves


def similarity(a: str, b: str) -> float:
    """Cosine of the trigram counts of the folded texts, from 0 to 1; 1 for equal texts, however short."""
    return _cosine(_profile(a), _profile(b))


Profile = tuple[dict[str, int], float]  # trigram counts and their length as a vector


def _profile(text: str) -> Profile:
    text = fold(text)
    counts = dict(Counter([text[i : i + 3] for i in range(len(text) - 2)]))
    return counts, hypot(*counts.values())


def _cosine(a: Profile, b: Profile) -> float:
    if a[0] == b[0]:
        return 1.0  # not 0.9999999999999998
    short, long = sorted((a[0], b[0]), key=len)
    return sum([n * long[gram] for gram, n in short.items() if gram in long]) / (a[1] * b[1])


# ----------------------------------------------------------------------------------------------------------------------
# bands


def band_hashes(texts: Sequence[str]) -> Hashes:
    """(N, BANDS) uint64: upper half a hash of the band's 4 slots, lower half the last 8 bits of each of them.

    Rows are compared where they share an upper half and, over all bands, EQUAL slots (b-bit minwise hashing, Li
    and König 2010, arXiv:0910.3349, with b = 8).

    A row's hashes depend on its text alone, and on no machine or process: worker processes can make them in pieces.
    """
    bands = np.empty((len(texts), BANDS), np.uint64)
    piece: list[str] = []
    size = 0
    for number, text in enumerate(texts, start=1):
        piece.append(fold(text))
        size += max(len(piece[-1]), 64)  # short rows are costly too: their digests are Python lists for a while
        if size >= 4 * PIECE or number == len(texts):
            bands[number - len(piece) : number] = _piece_hashes(piece)
            piece, size = [], 0
    return bands


def _piece_hashes(texts: list[str]) -> Hashes:
    from rensa import RMinHash

    grams, offsets = _trigrams(texts)
    digests = RMinHash.digest_matrix_from_flat_token_hashes(grams, offsets, BANDS * ROWS, SEED).to_rows()
    minima = np.array(digests, np.uint64).reshape(len(texts), BANDS, ROWS)
    hashes, slots = np.zeros((2, len(texts), BANDS), np.uint64)
    for row in range(ROWS):
        hashes = _mix(hashes + minima[:, :, row])
        slots = slots << np.uint64(8) | minima[:, :, row] & np.uint64(0xFF)
    return hashes >> HALF << HALF | slots


def _equal_slots(a: Hashes, b: Hashes) -> Integers:
    """How many of the B * ROWS slots of each pair of rows are equal: (P, B) and (P, B) to (P,)."""
    slots = (a ^ b).astype("<u8", copy=False).view(np.uint8).reshape(*a.shape, 8)[:, :, :ROWS]
    return np.count_nonzero(slots == 0, axis=(1, 2))


def _trigrams(texts: list[str]) -> tuple[Hashes, Hashes]:
    """Hashed trigrams of all texts, one after the other, and (N + 1,) where each text's begin and end."""
    lengths = np.array([len(text) for text in texts])
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    packed = codes[:-2] << np.uint64(42) | codes[1:-1] << np.uint64(21) | codes[2:]  # a code point has 21 bits
    inside = np.ones(len(codes), bool)
    ends = np.cumsum(lengths)
    inside[ends - 1] = inside[ends - 2] = False  # these would run into the next text
    return _mix(packed[inside[:-2]]), np.append(0, np.cumsum(lengths - 2)).astype(np.uint64)


def _mix(x: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): every bit depends on every bit."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


# ----------------------------------------------------------------------------------------------------------------------
# twins


def find_twins(
    bands: Hashes,
    text: Callable[[int], str],
    *,
    threshold: float = 0.9,
    advance: Callable[[int], None] = lambda bands: None,
    counted: Callable[[int], None] = lambda pairs: None,
) -> Integers:
    """(N,) the smallest row that a row is linked to by chains of twins, itself where it has none.

    Twins are rows whose similarity is above the threshold.

    bands    (N, B) from band_hashes; a memory map too: one column is sorted at a time, some 60 bytes a row
    text     a row's text, asked for candidates only
    advance  called with 1 after each of the B bands
    counted  called before that with the number of pairs whose texts were compared so far

    Rows that are in one cluster already are not compared again: a thousand equal rows cost 999 comparisons. Every pair
    in the result was compared. Missed are twins that share no band (see BANDS) and, rarely, some in crowds (see
    _Comparison and _candidates).
    """
    parent = np.arange(len(bands))
    compare = _Comparison(text, threshold, len(bands))

    def apart(a: Integers, b: Integers) -> NDArray[np.bool_]:
        return _roots(parent, a) != _roots(parent, b)

    def next_band(bands: int) -> None:
        counted(compare.count)
        advance(bands)

    for a, b, equal in _candidates(bands, apart, compare.bar, next_band):
        one, other = sorted((_root(parent, a), _root(parent, b)))
        if one != other and compare(a, b, equal):
            parent[other] = one  # the smallest row stays the root, and names the cluster
    return _roots(parent, np.arange(len(bands)))


class _Comparison:
    """Whether two rows are twins. Remembers rows and failures: pairs come back in other bands.

    Among rows that share a long preamble nearly every pair is a false candidate, so each failure raises the bar for
    both rows: the next partner must share one slot more. At most 28 comparisons a row fail, however many rows there
    are; twins in such a crowd share 104 slots of 128 on average, and few are missed.
    """

    def __init__(self, text: Callable[[int], str], threshold: float, n: int) -> None:
        self.threshold = threshold
        self.profile = lru_cache(maxsize=512)(lambda row: _profile(text(row)))
        self.failed: set[int] = set()
        self.count = 0  # pairs whose texts were compared
        self.bar = np.full(n, EQUAL, np.uint8)  # (N,) slots that a partner must share

    def __call__(self, a: int, b: int, equal: int) -> bool:
        a, b = min(a, b), max(a, b)
        key = a << 32 | b
        if equal < max(self.bar[a], self.bar[b]) or key in self.failed:
            return False
        self.count += 1
        if _cosine(self.profile(a), self.profile(b)) > self.threshold:
            return True
        if len(self.failed) >= FAILED:
            self.failed.clear()
        self.failed.add(key)
        self.bar[[a, b]] += 1
        return False


def _candidates(
    bands: Hashes,
    apart: Callable[[Integers, Integers], NDArray[np.bool_]],
    bar: NDArray[np.uint8],
    advance: Callable[[int], None],
) -> Iterator[tuple[int, int, int]]:
    """Pairs of rows that share a band, are in no common cluster yet and clear the bar, with their equal slots.

    A row is paired with its WINDOW nearest on either side among the rows with its hash, so that N rows have at most
    N * B * WINDOW candidates even if all share a bucket. Buckets of up to WINDOW + 1 rows are complete. In larger ones
    rows stand in the order of the next band's hash, which puts twins side by side more often than not; a pair that is
    too far apart in every bucket it shares, each of them crowded, is missed.
    """
    near = np.arange(1, WINDOW + 1)
    for band in range(bands.shape[1]):
        rows, hashes = _crowd(bands, band)
        for start in range(0, len(rows), PIECE // WINDOW):
            at = np.arange(start, min(start + PIECE // WINDOW, len(rows)))[:, None]
            other = np.minimum(at + near, len(rows) - 1)
            same = (hashes[at] == hashes[other]) & (at != other)
            a, b = np.broadcast_to(rows[at], same.shape)[same], rows[other][same]
            keep = apart(a, b)
            a, b = a[keep], b[keep]
            equal = _equal_slots(bands[a], bands[b])
            keep = equal >= np.maximum(bar[a], bar[b])
            yield from zip(a[keep].tolist(), b[keep].tolist(), equal[keep].tolist(), strict=True)
        advance(1)


def _crowd(bands: Hashes, band: int) -> tuple[Integers, NDArray[np.uint32]]:
    """Rows that are not alone with their hash, equal hashes side by side, and these hashes."""
    column = _upper(bands[:, band])
    order = np.argsort(column, kind="stable")
    column = column[order]
    same = column[1:] == column[:-1]
    crowd = np.zeros(len(column), bool)
    crowd[1:] |= same
    crowd[:-1] |= same
    rows, hashes = order[crowd], column[crowd]
    order = np.lexsort((_upper(bands[rows, (band + 1) % bands.shape[1]]), hashes))
    return rows[order], hashes[order]


def _upper(column: Hashes) -> NDArray[np.uint32]:
    return (column >> HALF).astype(np.uint32)


def _root(parent: Integers, row: int) -> int:
    while (up := int(parent[row])) != row:
        parent[row] = parent[up]
        row = up
    return row


def _roots(parent: Integers, rows: Integers) -> Integers:
    """_root of many rows at once."""
    roots = parent[rows]
    while (roots != (up := parent[roots])).any():
        roots = up
    parent[rows] = roots  # the way is short the next time
    return roots


# ----------------------------------------------------------------------------------------------------------------------
# passages shared with an evaluation

# Han, kana and their extensions are written without spaces
CJK = re.compile("([\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
PUNCTUATION = re.compile(r"[^\w\s]|_")
SHORTEST = 8  # words that an evaluation row needs to be checked: below it, common phrases collide


class NgramIndex:
    """The n-grams of words of an evaluation's rows, to ask whether a training text shares one with them.

    As in GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C): lower-cased words without punctuation, n = 13, and a
    shorter row counts whole, down to 8 words. The index holds 64-bit hashes, 16 bytes for each n-gram.

    too_short  rows with fewer than 8 words (or n), for which nothing can be said
    """

    def __init__(self, texts: Iterable[str], n: int = 13) -> None:
        if n < 1:
            raise ValueError(f"n={n}: an n-gram has at least one word")
        self.too_short = 0
        lengths = set()  # of the n-grams: n, and those of the rows that count whole
        hashes, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for row, text in enumerate(texts):
            words = _word_hashes(text)
            if len(words) < min(n, SHORTEST):
                self.too_short += 1
                continue
            length = min(n, len(words))
            lengths.add(length)
            hashes.append(np.unique(_ngrams(words, length)))
            owners.append(np.full(len(hashes[-1]), row))
        order = np.argsort(np.concatenate(hashes), kind="stable")
        self._hashes, self._owners = np.concatenate(hashes)[order], np.concatenate(owners)[order]
        self._lengths = sorted(lengths)

    def overlap(self, text: str) -> list[int]:
        """The evaluation rows with which a text shares an n-gram, or holds whole where they are shorter."""
        words = _word_hashes(text)
        rows: set[int] = set()
        for length in self._lengths[: bisect_left(self._lengths, len(words) + 1)]:
            grams = np.unique(_ngrams(words, length))
            first, last = (np.searchsorted(self._hashes, grams, side) for side in ("left", "right"))
            for at in np.flatnonzero(last > first):
                rows.update(self._owners[first[at] : last[at]].tolist())
        return sorted(rows)


def _word_hashes(text: str) -> Hashes:
    """One 64-bit hash for each word: don't is dont, and each character of Chinese or Japanese a word."""
    words = CJK.sub(r" \1 ", PUNCTUATION.sub("", text.lower())).split()
    return np.array([_word_hash(word) for word in words], np.uint64)


@lru_cache(maxsize=1 << 16)
def _word_hash(word: str) -> int:
    """The same in every process, as Python's hash() is not: an index can be sent to workers."""
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _ngrams(words: Hashes, n: int) -> Hashes:
    """Hashes of all windows of n words: (W,) to (W - n + 1,)."""
    hashes = np.zeros(len(words) - n + 1, np.uint64)
    for place in range(n):
        hashes = _mix(hashes + words[place : len(words) - n + 1 + place])
    return hashes
