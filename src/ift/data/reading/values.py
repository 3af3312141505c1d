"""What a value in a record is: text that can be used, a mark, or words that could be a part of a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # JSON can spell one: "\ud83d" without its second half
WORD = re.compile(r"[^\W\d_]{2,}")
LINK = re.compile(r"\w+://\S*$|www\.\S*$|[\w.+-]+@[\w.-]+$")
CLOCK = re.compile(r"\d{1,2}:\d{2}|\d{4}-\d{2}-\d{2}")
LONG = (60, 10, 25)  # characters, words, or characters of a script without spaces: more than a label has
DENSE = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff]")  # written without spaces


def kind_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def checked_text(value: Any, what: str) -> str:
    """A value as text that UTF-8 can hold. Raises ValueError where it is none."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {kind_of(value)}, not text")
    if not value.isascii() and HALF_CHARACTER.search(value):
        raise ValueError(f"{what} holds half a character (a lone surrogate, no text in UTF-8)")
    if "\0" in value:
        raise ValueError(f"{what} holds a NUL character (is it text?)")
    return value


def is_filled(value: Any) -> bool:
    return value is not None and value != "" and value != [] and value != {} and value == value  # NaN is not itself


def holds(value: Any) -> bool:
    """Whether a value is filled, and is not the JSON of nothing either."""
    return is_filled(value) and not (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))


def texts_in(value: Any) -> Iterator[str]:
    """The texts inside a value, but for the names and kinds that structure them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inside in value:
            yield from texts_in(inside)
    elif isinstance(value, dict):
        for name, inside in value.items():
            if name not in ("role", "from", "type", "id"):
                yield from texts_in(inside)


def is_wordy(text: str) -> bool:
    """Whether a text could be a part of a prompt: some words, no id, label, link, date or number."""
    text = text.strip()[:500]
    if len(DENSE.findall(text)) >= 10:
        return True
    if len(text) < 20 or LINK.match(text) or (len(text) < 60 and CLOCK.search(text)):
        return False
    return len(WORD.findall(text)) >= 4 and len(text.split()) >= 4


def is_long(text: str) -> bool:
    """Whether a text has more words than a label."""
    return len(text) >= LONG[0] or len(text.split()) >= LONG[1] or len(DENSE.findall(text)) >= LONG[2]


def mark_of(value: Any) -> bool | None:
    """A mark as true or false; None for what is no mark."""
    if isinstance(value, str):
        value = {"true": 1, "false": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0}.get(value.strip().lower())
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def is_mark(value: Any, *, plain: bool = False) -> bool:
    """Whether it is a mark; plain: as true or false, not as a number."""
    return mark_of(value) is not None and not (plain and str(value).strip().lower() not in ("true", "false"))
