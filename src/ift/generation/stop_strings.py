"""Strings that end an answer: when one is complete, and what the answer's text is then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"  # what half a character decodes to


class StopStrings:
    """`until=StopStrings(texts, decode)` for a request; `.text(ids)` is its answer.

    texts    the strings; empty ones stop nothing
    decode   token ids to text
    opening  what the answer begins with and is no part of it; a stop string within it stops nothing
    """

    def __init__(self, texts: Sequence[str], decode: Callable[[list[int]], str], *, opening: str = ""):
        self.texts, self.decode, self.opening = tuple(filter(None, texts)), decode, opening
        self._bytes = max((len(text.encode()) for text in self.texts), default=0)

    def __call__(self, ids: list[int]) -> bool:
        """Whether a stop string is complete. Call it after each new token: only the end is decoded."""
        if not self.texts:
            return False
        # a token has a byte at least; 4 more, so that a character which the cut halves lies before the string
        size = self._bytes + 4
        tail = self.decode(ids[-size:])
        while size < len(ids) and len(tail.encode()) < self._bytes:  # tokens without text
            size *= 2
            tail = self.decode(ids[-size:])
        if self.opening and len(ids) <= size + len(self.opening.encode()):
            tail = self._own(self.decode(ids))
        tail = tail.rstrip(REPLACEMENT)  # the rest of the character may come yet
        return any(text in tail for text in self.texts)

    def text(self, ids: list[int]) -> str:
        """The answer's text before the first stop string.

        It is cut at one string after the other in the order given, as lm-evaluation-harness does: that matters only
        where stop strings overlap.
        """
        text = self._own(self.decode(ids))
        for stop in self.texts:
            text = text.split(stop)[0]
        return text

    def _own(self, text: str) -> str:
        return "" if self.opening.startswith(text) else text.removeprefix(self.opening)
