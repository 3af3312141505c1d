"""What a person should look at in a row that is used as it stands: traces of other tools, secrets, broken text.

Each hint is sought by plain searches first, which are ten times faster than a pattern, and by a pattern where one hits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ift.data.contract.twins import CJK
from ift.data.reading.rows import Row
from ift.text.published import END_OF_TEXT

INVISIBLE = re.compile(  # not the joiners U+200C and U+200D: Persian and emoji need them
    "[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
SECRET = re.compile(
    r"\bsk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{36}|\bhf_[A-Za-z]{30,}|\bxox[abp]-[\w-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
SECRET_SIGNS = ("sk-", "AKIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "hf_", "xox", "PRIVATE KEY")
EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}\.\w")  # bounded: else a long word is tried from each of its letters on
BLOB = 400  # characters without white space
SPECIAL = re.compile(  # of ChatML, Llama 2 and 3, Gemma, Mistral, Phi, DeepSeek ...
    r"<\|(?!endoftext\|>)[A-Za-z_]\w{0,30}\|>|</s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<[be]os>|<｜[^｜<>]{1,30}｜>"
)
PLACEHOLDER = re.compile(  # {{anything}}, and {word} where code has others
    r"\{\{ ?[a-z_][\w. -]{0,40}\}\}|(?<![\w\\${])\{(?:(?:the|your|user|first|last|insert)[ _])?"
    r"(?:instruction|input|output|question|answer|context|prompt|response|completion|system|query|document|passage"
    r"|text|user|username|name|topic|title|company|product|city|language|placeholder)\}(?!\})",
    re.IGNORECASE,
)
STOPS_OF_PROMPT = ("\n\n###\n\n", "\n\n###", " ->")  # of OpenAI's first fine-tuning
STOPS_OF_ANSWER = (" END", "\nEND", "###", "###\n\n", "\n\n")
TAG = re.compile(r"</?(?:p|br|div|span|li|ul|ol|td|tr|table|strong|em|h[1-6])\s{0,3}/?>|<(?:a href|div class|p class)=")
ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|mdash|hellip|[lr][ds]quo|#\d{2,5}|#x[0-9a-fA-F]{2,5});")
MOJIBAKE = re.compile(  # bytes of UTF-8 that were read as Latin-1 or Windows-1252
    "[ÃÂ][\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€|ï»¿|ðŸ|\ufffd"
)
MOJIBAKE_SIGNS = ("Ã", "Â", "â€", "ï»¿", "ðŸ", "\ufffd")
REPEATED = 20  # characters of an instruction from which an answer that begins with it is no chance
EMPTY = frozenset(("nan", "null", "none", "n/a", "#n/a", "na", "<na>", "nil", "<noinput>"))  # in small letters
NO_VALUE = "an input that reads None or NaN (an empty cell written by another program?)"
ONE_WORD = "an answer of one word (is that wanted?)"
MANY = {ONE_WORD: (25, 0.3)}  # hints that say something only of so many rows, and of such a share
AROUND, LONGEST = 30, 100  # characters of an excerpt: on each side of what was found, and in all


@dataclass(frozen=True)
class Found:
    """A place in a text."""

    text: str
    begin: int = 0
    end: int = LONGEST
    hidden: bool = False  # a report is passed on

    def excerpt(self) -> str:
        if self.hidden:
            return "not shown"
        begin = max(0, self.begin - AROUND)
        end = min(self.end + AROUND, begin + LONGEST)
        return "…" * (begin > 0) + self.text[begin:end] + "…" * (end < len(self.text))


def hints(row: Row, text: str, own: str = "") -> Iterator[tuple[str, Found]]:
    """Each hint about a row, once, with the first place. text: all of the row; own: what the prompt template spells."""
    question, answer = row.instruction.strip(), row.output.strip()
    if answer == question:
        yield "the output repeats the instruction", Found(row.output)
    elif len(question) >= REPEATED and answer.startswith(question):
        yield "the answer begins with the prompt", Found(row.output)
    if len(answer) < 30 and len(answer.split()) < 2 and not CJK.search(answer):
        yield ONE_WORD, Found(row.output)
    for given in (row.input, row.system):
        if given and len(given) < 12 and given.strip().lower() in EMPTY:
            yield NO_VALUE, Found(given)
            break
    if row.output.endswith(STOPS_OF_ANSWER):
        yield _stop(row.output)
    elif (row.input or row.instruction).endswith(STOPS_OF_PROMPT):
        yield _stop(row.input or row.instruction)
    if "<" in text or "INST]" in text:
        if END_OF_TEXT in text:
            at = text.index(END_OF_TEXT)
            yield f"spells {END_OF_TEXT}, which stays ordinary text", Found(text, at, at + len(END_OF_TEXT))
        special = SPECIAL.search(text)
        if special and special[0] not in own:
            yield "spells a special token of a model family, which stays ordinary text", _found(special)
    tag = ("<" in text and TAG.search(text)) or ("&" in text and ENTITY.search(text))
    if tag:
        yield "HTML tags or entities", _found(tag)
    if "{" in text and (place := PLACEHOLDER.search(text)):
        yield "a placeholder that nothing was put into", _found(place)
    if not text.isascii() and any(sign in text for sign in MOJIBAKE_SIGNS) and (broken := MOJIBAKE.search(text)):
        yield "characters of a wrong encoding (Ã©, â€™)", _found(broken)
    if not text.replace("\n", " ").isprintable() and (invisible := INVISIBLE.search(text)):
        yield "invisible or control characters", _found(invisible)
    if any(sign in text for sign in SECRET_SIGNS) and (secret := SECRET.search(text)):
        yield "what looks like a secret key", _found(secret, hidden=True)
    if "@" in text and (address := EMAIL.search(text)):
        yield "an e-mail address", _found(address, hidden=True)
    if len(text) > BLOB and max(map(len, text.split())) > BLOB:
        longest = max(text.split(), key=len)
        at = text.index(longest)
        yield f"{BLOB} characters without a break (encoded data?)", Found(text, at, at + BLOB)


def _stop(text: str) -> tuple[str, Found]:
    return "ends in a stop marker of older tools (###, END, ->)", Found(text, len(text) - 10, len(text))


def _found(match: re.Match[str], *, hidden: bool = False) -> Found:
    return Found(match.string, match.start(), match.end(), hidden)
