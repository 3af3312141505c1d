"""Texts of others as they may stand in a terminal or on a page: nothing in them hides or steers anything."""

from __future__ import annotations

from unicodedata import category

JOINED = ("Lo", "Mn", "Mc", "So", "Sk")  # letters of scripts without capitals, their marks, and emoji


def printable(text: str) -> str:
    """Characters that show nothing, turn the text around or steer a terminal are shown by their number.

    A joiner or non-joiner between characters that it joins is part of their spelling: of families among the emoji, of
    words in Persian or Hindi. Between others it shows nothing, and is shown.
    """
    if text.replace("\n", "").isprintable():
        return text
    return "".join(
        c if c in "\n\t" or category(c) not in ("Cc", "Cf") or _joins(text, i) else f"⟨U+{ord(c):04X}⟩"
        for i, c in enumerate(text)
    )


def _joins(text: str, i: int) -> bool:
    """Whether the character is U+200C or U+200D with an emoji, or a letter of a script that joins, on both sides."""
    if text[i] not in "\u200c\u200d":
        return False
    before, after = text[i - 1 : i], text[i + 1 : i + 2]
    return all(side and (side >= "\u0600" and category(side) in JOINED) for side in (before, after))
