"""What a response shares with its reference: the same or not, ROUGE-L, and word by word. Needs no torch.

Words are Unicode's: letters, marks and digits that stand together, in any case. Scripts that put no spaces between
words (UNSPACED) are cut into characters as a reader sees them (grapheme clusters, Unicode Standard Annex 29).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from unicodedata import normalize

import regex

# -- forms of text ----------------------------------------------------------------------------------------------------

# soft hyphen, zero-width space, word joiner, byte order mark, and what only tells which way text runs
UNSEEN = regex.compile(r"[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
WIDTHS = regex.compile(r"[\u3000\uff00-\uffef]+")  # full-width and half-width forms
# of what else has no look of its own, only the joints of an emoji and the letters of a flag tell texts apart
JOINTS = regex.compile(
    r"(?V1)[\p{Default_Ignorable_Code_Point}--[\u200d\U000e0020-\U000e007f]]|\u200d(?!\p{Extended_Pictographic})"
)


def canonical(text: str) -> str:
    """The text in Unicode's composed form (NFC), lines ended by \\n, without characters that nobody sees (UNSEEN)."""
    text = text.replace("\r\n", "\n")
    return text if text.isascii() else normalize("NFC", UNSEEN.sub("", text))


def same(response: str, reference: str) -> bool:
    """Exact match: equal in canonical form, after white space at the ends is removed. Case and width count."""
    return response == reference or canonical(response).strip() == canonical(reference).strip()


def folded(text: str) -> str:
    """Without case (Unicode's case folding: ß is ss, İ is i), width, and invisible joiners."""
    if text.isascii():
        return text.lower()
    text = WIDTHS.sub(lambda wide: normalize("NFKC", wide[0]), canonical(text))
    return JOINTS.sub("", normalize("NFC", text.casefold()).replace("i\u0307", "i"))


# -- words ------------------------------------------------------------------------------------------------------------

SCRIPTS = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\u30fc\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
UNSPACED = rf"[{SCRIPTS}&&[\p{{L}}\p{{M}}]]"
CHARACTER = rf"(?={UNSPACED})\X"
WORD = rf"[[\p{{L}}\p{{M}}\p{{N}}]--{UNSPACED}]+"
PICTURE = r"(?=[\p{So}--[°©®™]])\X"  # an emoji or another pictograph, however many code points it takes
# what plain sentences have not: + = < > | ~ and the rest of mathematics, ^ { } !x -1 a[i], and * / % between operands
OPERATOR = regex.compile(
    r"(?V1)[\p{Sm}\^{}]|(?<![^\s(\[,])(?:!(?=[\w(])|-(?=\.?\d))|(?<=\w)\[|(?<=[\w)\]])\*+(?=[\w(\[])"
    r"|(?<=\S[ ])(?:\*+|//?)(?=[ ]\S)|(?<=[^\d\s][ ])%(?=[ ]\S)"
)
SIGNS = [rf"\{sign}+" for sign in "+-*/%<=>&|^~!@#$\\"] + [r"[()\[\]{}]", r"[\p{Sm}\p{Sc}]"]
ASCII_WORD = re.compile("[a-z0-9]+")
PROSE = regex.compile(f"(?V1){WORD}|{CHARACTER}|{PICTURE}")
FORMULA = regex.compile(f"(?V1){WORD}|{CHARACTER}|{PICTURE}|{'|'.join(SIGNS)}")
ANY = regex.compile(r"(?=\S)\X")


def words(text: str) -> list[str]:
    """What ROUGE-L counts.

    Words, characters of UNSPACED scripts, and emoji. In lines that hold an operator, signs and brackets too: x += 1 is
    not x -= 1. Of a text that has none of these, every character.

    English without operators gives the words of Google's rouge_score and of torchmetrics (runs of a-z and 0-9).
    """
    text = folded(text)
    prose = ASCII_WORD if text.isascii() else PROSE
    if not OPERATOR.search(text):
        return prose.findall(text) or ANY.findall(text)
    return [
        word for line in text.split("\n") for word in (FORMULA if OPERATOR.search(line) else prose).findall(line)
    ] or ANY.findall(text)


CHUNK = regex.compile(rf"(?V1){CHARACTER}|[^\s{UNSPACED}]+")


def chunks(text: str) -> list[str]:
    """What stands between spaces, punctuation and all; of UNSPACED scripts each character."""
    return text.split() if text.isascii() else CHUNK.findall(text)


# -- ROUGE-L ----------------------------------------------------------------------------------------------------------


def rouge_l(response: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004), from 0 to 1."""
    ours, right = words(response), words(reference)
    common = common_subsequence(ours, right)
    return 2 * common / (len(ours) + len(right)) if common else 0.0


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    last = deque(_columns(a, b), maxlen=1)[0]
    return len(a) - last.bit_count()


def _columns(a: Sequence[str], b: Sequence[str]) -> Iterator[int]:
    """Hyyrö's bits (2004) for no word of b, for the first, the first two, and so on.

    A bit of a[i] that is 0: with a[i] the subsequence of a[:i + 1] and these words of b is one longer than with a[:i].
    """
    where: dict[str, int] = {}
    for i, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << i
    every = (1 << len(a)) - 1
    left = every
    yield left
    for word in b:
        match = left & where.get(word, 0)
        left = ((left + match) | (left - match)) & every
        yield left


# -- word by word -----------------------------------------------------------------------------------------------------

WINDOW = 4_000  # words; a longer text is compared so many at a time, which takes time in proportion to its length
Pieces = list[tuple[bool, str]]  # (is it in both?, text); the texts join to the whole
PIECE = regex.compile(
    rf"(?V1)\s+|[[\p{{L}}\p{{M}}\p{{N}}_\p{{Default_Ignorable_Code_Point}}]--{UNSPACED}]+|{CHARACTER}|\X"
)


def word_diff(reference: str, response: str) -> tuple[Pieces, Pieces]:
    """Both texts cut into what they share and what they do not, at borders of words and signs.

    White space is shared where it is the same beside a shared word. Case counts.
    """
    left, right = PIECE.findall(reference), PIECE.findall(response)
    of_left, of_right = ([i for i, piece in enumerate(side) if not piece.isspace()] for side in (left, right))
    in_left, in_right = [False] * len(left), [False] * len(right)
    if not of_left and not of_right:
        in_left = in_right = [reference == response]
    pairs = common_words([canonical(left[i]) for i in of_left], [canonical(right[i]) for i in of_right])
    for i, j in pairs:
        i, j = of_left[i], of_right[j]
        in_left[i] = in_right[j] = True
        for x, y in ((i - 1, j - 1), (i + 1, j + 1)):
            if 0 <= x < len(left) and 0 <= y < len(right) and left[x] == right[y] and left[x].isspace():
                in_left[x] = in_right[y] = True
    return _joined(in_left, left), _joined(in_right, right)


def _joined(shared: Sequence[bool], texts: Sequence[str]) -> Pieces:
    cuts = [i for i in range(len(texts)) if not i or shared[i] != shared[i - 1]]
    return [(shared[i], "".join(texts[i:j])) for i, j in pairwise([*cuts, len(texts)])]


def common_words(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    """Places of a longest common subsequence, as pairs (in a, in b) in rising order.

    Texts longer than WINDOW are compared one window after the other, each from the first pair in the second half of the
    one before.
    """
    found: list[tuple[int, int]] = []
    i = j = end = 0
    while end < min(len(a), len(b)) and a[-1 - end] == b[-1 - end]:
        end += 1
    ending = [(len(a) - back, len(b) - back) for back in range(end, 0, -1)]
    a, b = a[: len(a) - end], b[: len(b) - end]
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            found.append((i, j))
            i, j = i + 1, j + 1
            continue
        pairs = _common_of_window(a[i : i + WINDOW], b[j : j + WINDOW])
        if len(a) - i <= WINDOW and len(b) - j <= WINDOW:
            return [*found, *((i + x, j + y) for x, y in pairs), *ending]
        half = WINDOW // 2
        kept = [(x, y) for x, y in pairs if x < half and y < half]
        found += [(i + x, j + y) for x, y in kept]
        x, y = pairs[len(kept)] if len(kept) < len(pairs) else (half, half)
        i, j = i + x, j + y
    return found + ending


def _common_of_window(a: Sequence[str], b: Sequence[str]) -> list[tuple[int, int]]:
    columns = [*_columns(a, b)]
    found = []
    i, j = len(a), len(b)
    while i and j:
        if columns[j] >> (i - 1) & 1:  # as long without a[i - 1]
            i -= 1
        elif columns[j - 1] >> (i - 1) & 1:  # it is b[j - 1] that made it longer
            i, j = i - 1, j - 1
            found.append((i, j))
        else:
            j -= 1
    return found[::-1]
