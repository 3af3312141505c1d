"""BLEU and chrF of a set of answers, out of counts that add up over rows. As sacrebleu has them, from 0 to 1; no torch.

A row's counts are a list of integers. The counts of a set are the sums of its rows', and its score is of the sums: no
mean of the rows' scores, which for BLEU would mean nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import regex
from numpy.typing import NDArray

from ift.evaluation.overlap import CHARACTER, canonical

WORDS, CHARACTERS = 4, 6  # the longest runs that BLEU and chrF count
RECALL = 2  # times as important to chrF as precision
Counts = NDArray[np.int64]

# -- BLEU -------------------------------------------------------------------------------------------------------------

ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
APART = regex.compile(rf"(?V1){CHARACTER}|[\u3000-\u303f\uff00-\uffef]")  # with the punctuation of Chinese and Japanese
RULES = (
    (re.compile(r"([!-&(-+/:-@\[-`{-~])"), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def bleu_words(text: str) -> list[str]:
    """Words and punctuation marks by NIST's mteval-v13a, which sacrebleu calls 13a; case counts.

    Scripts without spaces are cut into characters, as sacrebleu's tokenizer zh does with Chinese.
    """
    text = canonical(text).rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, sign in ENTITIES:
        text = text.replace(entity, sign)
    if not text.isascii():
        text = APART.sub(r" \g<0> ", text)
    text = f" {text} "
    for rule, replacement in RULES:
        text = rule.sub(replacement, text)
    return text.split()


def bleu_counts(response: str, reference: str) -> list[int]:
    """(9,): for each order the n-grams of the response that the reference has too, then all of them; the reference's
    words."""
    ours, right = bleu_words(response), bleu_words(reference)
    shared, all_ours = [], []
    for order in range(1, WORDS + 1):
        found, wanted = (Counter(zip(*(w[i:] for i in range(order)), strict=False)) for w in (ours, right))
        shared.append(sum(min(count, wanted[gram]) for gram, count in found.items() if gram in wanted))
        all_ours.append(max(0, len(ours) - order + 1))
    return [*shared, *all_ours, len(right)]


def bleu(counts: Counts) -> NDArray[np.float64]:
    """(..., 9) summed counts -> (...): BLEU of orders 1 to 4 (Papineni et al. 2002), as sacrebleu smooths it.

    An order of which nothing is shared counts half a match, the next such order a quarter (NIST's geometric sequence).
    Orders that no response is long enough for are left out (sacrebleu's use_effective_order): one-word answers are
    compared by their words alone. Nothing shared at all is 0.
    """
    shared, ours, right = counts[..., :WORDS], counts[..., WORDS : 2 * WORDS], counts[..., -1]
    there, none = ours > 0, (shared == 0) & (ours > 0)
    matches = np.where(none, 0.5 ** np.cumsum(none, axis=-1), shared)
    logs = np.log(np.where(there, matches, 1) / np.maximum(ours, 1))
    precision = np.exp(logs.sum(axis=-1) / np.maximum(there.sum(axis=-1), 1))
    brevity = np.exp(np.minimum(0.0, 1 - right / np.maximum(ours[..., 0], 1)))
    return np.where(shared.any(axis=-1), brevity * precision, 0.0)


# -- chrF -------------------------------------------------------------------------------------------------------------


def chrf_counts(response: str, reference: str) -> list[int]:
    """(18,): for each order the n-grams of characters that both have, the response's, the reference's; no spaces."""
    ours, right = ("".join(canonical(text).split()) for text in (response, reference))
    n, m = len(ours), len(right)
    if not n or not m:  # sacrebleu: an order that the reference has not is left out
        return [0] * (2 * CHARACTERS) + [max(0, m - order) for order in range(CHARACTERS)]
    points = np.frombuffer((ours + right).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds, characters = np.unique(points, return_inverse=True)
    grams = characters  # a number for the n-gram that begins at each place, the same for equal ones
    shared: list[int] = []
    for order in range(CHARACTERS):
        if order:
            grams = np.unique(grams[:-1] * len(kinds) + characters[order:], return_inverse=True)[1]
        if order >= min(n, m):
            shared += [0] * (CHARACTERS - order)
            break
        most = int(grams.max()) + 1
        both = (grams[: n - order], grams[n : n + m - order])  # none that runs from the one text into the other
        shared.append(int(np.minimum(*(np.bincount(each, minlength=most) for each in both)).sum()))
    all_right = [max(0, m - order) for order in range(CHARACTERS)]
    all_ours = [max(0, n - order) if right_has else 0 for order, right_has in enumerate(all_right)]
    return [*shared, *all_ours, *all_right]


def chrf(counts: Counts) -> NDArray[np.float64]:
    """(..., 18) summed counts -> (...): chrF2 (Popović 2015), n-grams of 1 to 6 characters without white space.

    F of the mean precision and the mean recall over the orders that both sides have; recall weighs twice as much.
    """
    shared, ours, right = np.split(counts, 3, axis=-1)
    there = (ours > 0) & (right > 0)
    orders = np.maximum(there.sum(axis=-1), 1)
    precision, recall = (
        np.where(there, shared / np.maximum(all_, 1), 0).sum(axis=-1) / orders for all_ in (ours, right)
    )
    weighed = RECALL**2 * precision + recall
    return np.where(weighed > 0, (1 + RECALL**2) * precision * recall / np.where(weighed > 0, weighed, 1), 0.0)


def chrf_of(response: str, reference: str) -> float:
    """chrF of a single answer."""
    return float(chrf(np.array(chrf_counts(response, reference))))


def counted(
    pairs: Sequence[tuple[str, str]], advance: Callable[[int], None] = lambda pairs: None
) -> tuple[Counts, Counts]:
    """Counts of each (response, reference) for BLEU (n, 9) and for chrF (n, 18). advance: is told of each pair done."""
    bleus, chrfs = [], []
    for pair in pairs:
        bleus.append(bleu_counts(*pair))
        chrfs.append(chrf_counts(*pair))
        advance(1)
    of_words = np.array(bleus, dtype=np.int64).reshape(len(pairs), 2 * WORDS + 1)
    return of_words, np.array(chrfs, dtype=np.int64).reshape(len(pairs), 3 * CHARACTERS)
