"""The text of an answer as its tokens come: each character is handed on once, and none is ever taken back.

    text = TextStream(tokenizer.decode_bytes, ["\\n###"], show=print)
    engine.submit(Request(prompt, max_new_tokens=100, until=text, on_end=lambda _: text.end()))

Two things must wait for what follows them: the bytes of a character that is not whole, and text that may be the
beginning of a stop string.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


class TextStream:
    """Give it to a request as `until`: it hears of each token and ends the answer at a stop string.

    decode_bytes  bytes of tokens; those of several tokens are those of each, one after the other
    stops         strings that end the answer and are no part of it; empty ones stop nothing
    show          called with each piece of text, never with an empty one
    """

    def __init__(self, decode_bytes: Callable[[list[int]], bytes], stops: Sequence[str], show: Callable[[str], None]):
        self.decode_bytes, self.stops, self.show = decode_bytes, tuple(filter(None, stops)), show
        self.stopped = False  # a stop string is complete: nothing is shown after it
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._waiting = ""

    def __call__(self, ids: list[int]) -> bool:
        """After each new token of an answer, with all of them: whether a stop string is complete."""
        self._take(self._characters.decode(self.decode_bytes(ids[-1:])))
        return self.stopped

    def end(self) -> None:
        """The answer has ended: what waited is shown."""
        self._take(self._characters.decode(b"", final=True))
        if not self.stopped:
            self._show(len(self._waiting))

    def _take(self, text: str) -> None:
        if self.stopped:
            return
        self._waiting += text
        found = [place for place in map(self._waiting.find, self.stops) if place >= 0]
        if found:
            self._show(min(found))
            self.stopped = True
            return
        self._show(len(self._waiting) - max((self._begun(stop) for stop in self.stops), default=0))

    def _begun(self, stop: str) -> int:
        """Characters at the end of what waits that may be the beginning of a stop string."""
        longest = min(len(stop) - 1, len(self._waiting))
        return next((size for size in range(longest, 0, -1) if self._waiting.endswith(stop[:size])), 0)

    def _show(self, size: int) -> None:
        shown, self._waiting = self._waiting[:size], self._waiting[size:]
        if shown:
            self.show(shown)
