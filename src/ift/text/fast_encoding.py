"""A byte-level BPE of tokenizer.json on tiktoken, which is several times as fast as the library tokenizers: where it is
exact, and only there.

tiktoken merges the pair whose token has the lowest id; the library merges in the order of its list. The two agree where
the list is in the order of ids, and where one regular expression cuts text into words for both. `as_tiktoken` builds
what looks equal; `difference` compares the two on texts that are hard to cut, on the vocabulary's own tokens and on
random strings. The verdict is kept beside the cache of rows, and preparing a data set compares rows of it again.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers.normalizers import Normalizer

from ift.run import read_json, write_json
from ift.text.bpe import GPT2_PATTERN
from ift.text.published import Published, pairs, parts_of, vocabulary_of
from ift.wheels import user_cache

# a regular expression of nothing but these means the same to both libraries
SAME = re.compile(
    r"(?:\\[pP]\{[A-Z][a-z]?\}|\\[sSrnt/.\-\[\]\\]|\(\?(?:i:|:|=|!)|[()|?*+]|\{\d+(?:,\d*)?\}"
    r"|\[\^|[\[\]]|[^\\()\[\]{}|?*+^$.&])*"
)
DIGITS = {  # GPT-2's cut after one at digits: white space before a digit ends a part, and so is not halved
    True: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?=\p{N})|\s+(?!\S)|\s",
    False: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++|\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?=\p{N})|\s+(?!\S)|\s",
}


class FastEncoding:
    """A tiktoken.Encoding after a normalizer and a split at added words.

    words: added tokens that are ordinary, matched in the text as it stands (raw) or in the normalised one.
    lacks: a class of characters with a byte that is no token; None for a whole vocabulary.
    """

    def __init__(
        self,
        encoding: tiktoken.Encoding,
        *,
        normalise: Callable[[str], str] | None,
        words: Mapping[str, int],
        raw: bool,
        lacks: str | None,
    ):
        self.lacks = re.compile(lacks) if lacks else None
        self.encoding, self.normalise, self.words, self.raw = encoding, normalise, words, raw
        longest = sorted(words, key=len, reverse=True)  # an alternation takes the first that matches
        self.split = re.compile("|".join(map(re.escape, longest))) if words else None

    def knows(self, text: str) -> bool:
        """Whether all bytes of a text are tokens: of others the library leaves out some in its own way."""
        return self.lacks is None or not self.lacks.search(text)

    def __call__(self, text: str) -> list[int]:
        """Raises UnicodeEncodeError or TypeError where half a character stands in the text."""
        if self.raw:
            return self._split(text, self._plain)
        return self._split(self._normalised(text), self.encoding.encode_ordinary)

    def _plain(self, text: str) -> list[int]:
        return self.encoding.encode_ordinary(self._normalised(text))

    def _normalised(self, text: str) -> str:
        return text if self.normalise is None or text.isascii() else self.normalise(text)

    def _split(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        if self.split is None or not self.split.search(text):
            return encode(text)
        ids: list[int] = []
        at = 0
        for match in self.split.finditer(text):
            ids += encode(text[at : match.start()])
            ids.append(self.words[match[0]])
            at = match.end()
        return ids + encode(text[at:])


def as_tiktoken(published: Published, stored: Mapping[str, Any], normalizer: Normalizer | None) -> FastEncoding | None:
    """What gives the same tokens if anything of tiktoken does; None where that is ruled out.

    normalizer: the library's; ASCII stays as it is under all that are let through.
    """
    model, pattern = stored["model"], cut_of(stored.get("pre_tokenizer"))
    words = published.words.values()
    if model.get("type", "BPE") != "BPE" or not published.byte_level or pattern is None:
        return None
    if any(part.get("type") not in ("NFC", "NFKC") for part in parts_of(stored.get("normalizer"))):
        return None
    if any(word[flag] for word in words for flag in ("single_word", "lstrip", "rstrip")):
        return None
    if len({bool(word["normalized"]) for word in words}) > 1:
        return None
    ranks = {published.bytes[id]: id for id in sorted(published.ordinary) if id not in published.words}
    vocabulary = vocabulary_of(model)
    made = [vocabulary.get("".join(pair), -1) for pair in pairs(model["merges"])]
    lacking = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if made != sorted(made) or any(0x80 <= byte < 0xC0 for byte in lacking):
        return None
    return FastEncoding(
        tiktoken.Encoding(published.name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}),
        normalise=normalizer.normalize_str if normalizer and parts_of(stored.get("normalizer")) else None,
        words={word["content"]: id for id, word in published.words.items()},
        raw=not all(word["normalized"] for word in words),
        lacks=f"[{''.join(map(_begun_by, lacking))}]" if lacking else None,
    )


def _begun_by(byte: int) -> str:
    """The characters whose first byte it is in UTF-8, as a part of a regular expression's class."""
    if byte < 0x80:
        return re.escape(chr(byte))
    if 0xC2 <= byte < 0xF5:
        bits = 6 if byte < 0xE0 else 12 if byte < 0xF0 else 18
        first = (byte & (0x1F if bits == 6 else 0x0F if bits == 12 else 0x07)) << bits
        return f"{chr(first)}-{chr(min(first + (1 << bits) - 1, 0x10FFFF))}"
    return "\ud800"  # of no character: a half stands for none


def cut_of(pre_tokenizer: Any) -> str | None:
    """The one regular expression by which tiktoken cuts text into the same words; None where there is none."""
    *before, last = parts_of(pre_tokenizer) or [{}]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") or len(before) > 1:
        return None
    if last.get("use_regex", True):
        if not before:
            return GPT2_PATTERN
        digits = before[0].get("type") == "Digits"
        return DIGITS[bool(before[0].get("individual_digits"))] if digits else None
    if not before or before[0].get("type") != "Split":
        return None
    pattern = before[0]["pattern"].get("Regex")
    # each match is a word; what no match covers is a word of the first, and goes under the second
    whole = (before[0].get("behavior"), bool(before[0].get("invert"))) in (("Isolated", False), ("Removed", True))
    return pattern if pattern and whole and SAME.fullmatch(pattern) else None


# ----------------------------------------------------------------------------------------------------------------------
# the proof


def difference(first: Callable[[str], list[int]], second: Callable[[str], list[int]], texts: Iterable[str]) -> str:
    """The first text to which two encoders give other tokens; "" where there is none."""
    return next((text for text in texts if text and first(text) != second(text)), "")


def verdict_file(published: Published) -> Path:
    """Where the verdict on a vocabulary is kept: for these files, these libraries and this way of comparing."""
    digest = hashlib.sha256(published.raw)
    added = sorted((id, entry["content"]) for id, entry in {**published.added, **published.words}.items())
    versions = [version(name) for name in ("tiktoken", "tokenizers")]
    digest.update(repr([added, published.end, versions]).encode() + Path(__file__).read_bytes())
    return user_cache() / "tokenizers" / f"{digest.hexdigest()[:20]}.json"


def read_verdict(published: Published) -> bool | None:
    """Whether tiktoken is exact, if that was compared before."""
    try:
        return bool(read_json(verdict_file(published).expanduser())["exact"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None


def write_verdict(published: Published, *, differs: str) -> None:
    """Kept where that is possible; elsewhere it is compared anew next time."""
    with suppress(OSError, RuntimeError):  # RuntimeError: no home
        path = verdict_file(published).expanduser()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, {"tokenizer": published.name, "exact": not differs, "differs": differs[:200]})


HARD = [
    "",
    " ",
    "a",
    "I'm you're he'll WE'VE it'S they'D 'Tis ''s 'ſ 'K rock 'n' roll don’t",
    "1 12 123 1234 12345678901234567890 1,234.56 -7 +8 3rd a1b2 x 1 y  22  333 ²³ ½ Ⅷ ٣٤ १२ 𝟙𝟚 ꘠",
    "a  b   c    d     e\t\tf \t g\n\nh\n \n i\r\nj\r\r\n k  \n  l \n",
    "   leading, trailing   ",
    "\n\n\n   \t\t\t   \n",
    "\xa0\u2003\u3000x\u2028y\u2029z\x85w\u200bv\u180eu\x0b\x0c\x1c\x1dt",
    "def f(x):\n    return {'a': [1, 2], \"b\": x**2}  # ~`!@$%^&*()_+-=\\|;:,<.>/?\n",
    "https://example.org/a_b/c-d?e=f&g=%20#h user@host.tld C:\\dir\\file.txt /* x */ <!-- y --> <p class='z'>",
    "é e\u0301 ñ n\u0303 Å \u212b ﬁ ﬀ ǆ ẛ\u0323 \u1e9b\u0323 가 \u1100\u1161 \u0958 \U0001d15e 豈 \uf900",
    "über Straße ЖИЗНЬ жизнь Ελληνικά עברית العربية हिन्दी ไทย 日本語。 中文，标点！ 한국어 tiếng Việt İstanbul ıI",
    "😀👍🏽👨‍👩‍👧‍👦🇩🇪 ❤️ ☎︎ ©®™ €£¥ ∑∫√ → ≠ ½ ‰ … — – “” «»",
    "\x00\x01\x7f\x80\ufeff\ufffd\ufffe\uffff\U0010ffff\ue000 \u0301\u0300x \u202eabc\u202c \u200d\u200c",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 6,
    "!!!!!!????----====____....,,,,;;;;::::'''''\"\"\"\"" * 4,
    "camelCaseWord HTTPServer XMLHttpRequest snake_case kebab-case SCREAMING ǅ ǈ aͅ ʰ ª º Ⓐ ⅻ",
    "\n\n\nA\n\n b \n\n\n\n1\n\n\n.\n\n/\n//\n",
    # letters, marks, digits, punctuation and symbols that came with Unicode 13 to 16, where libraries may know others
    "\U00010e80\U00011fb0\U00018b00ꟊ\u08c0 \U00010570\U0001df00ꟑ\u0c5d\u1dfa \U00011f04\U0001e4d0\U00031350 ",
    "\U0002ebf0 x\U000105c0y\U00010d4a\U00011380ᲊꟚꟜ z \U00010d40\U00011f50\U0001e5f1\U00016d70\U0001ccf0 ",
    "\U00011b00\U0001fae9\u2ffc",
    "\U000105d2\u0307 \U00011382\U000113c9 \U00016d67\U00016d67",  # composed since Unicode 16
]
PIECES = [
    *(
        " ",
        "  ",
        "\n",
        "\t",
        "\r\n",
        "\xa0",
        "'s",
        "'LL",
        "’",
        "a",
        "B",
        "é",
        "e\u0301",
        "ß",
        "日",
        "ह",
        "ि",
        "😀",
        "\u200d",
    ),
    *("7", "42", "1234", "²", "٣", ".", ",", "/", "_", "-", "(", "<", "|", ">", "the", " of", "\x00", "\ufeff"),
]


def hard_texts(published: Published) -> list[str]:
    """Texts that are hard to cut, what looks like special tokens, tokens of the vocabulary, and random strings."""
    draw = random.Random(0)
    words, marks = [[e["content"] for e in some.values()] for some in (published.words, published.added)]
    texts = [*HARD, *(f"a{mark}b {mark} {mark[1:]}{mark}\n" for mark in marks[:50])]
    texts += [f"x{word}{word}y {word * 3}{other} {word}" for word, other in zip(words, reversed(words), strict=True)]
    ordinary = sorted(published.ordinary)
    for id in draw.sample(ordinary, min(1500, len(ordinary))):
        token = published.bytes[id].decode(errors="ignore")
        texts += [token, f"{token}{draw.choice(PIECES)}"]
    pieces = [*PIECES, *words[:30], *marks[:30]]
    texts += ["".join(draw.choices(pieces, k=draw.randint(1, 30))) for _ in range(1000)]
    texts += ["".join(map(_character, draw.choices(range(0x10F800), k=20))) for _ in range(300)]
    return texts + ["".join(map(_character, draw.choices(range(0x3000), k=20))) for _ in range(300)]


def _character(number: int) -> str:
    return chr(number if number < 0xD800 else number + 0x800)  # without the halves of characters
