"""What a judge's reply says, by a grammar that guesses nothing: a reply that could be read in two ways is unread.

A score       85   85/100   85 out of 100   85%   Score: 85   **Rating:** 85/100   {"score": 85}
A rubric      the reason in sentences, then a last line as above that names the score: Score: 4   or   4/5
              {"reason": "...", "score": 4}
A winner      A   B   tie   Winner: A   [[B]]   {"winner": "tie"}

Numbers are whole, in Western digits, and within the scale. A block of thoughts, <think>...</think>, may come first.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_BEFORE = r"(?:(?:the|my|final|overall|your)\s+)*"
_LABEL = rf"(?:{_BEFORE}(?:score|rating|grade|mark)(?:\s+is)?\s*[:=–]?\s*)"
_NAMED = rf"(?:{_BEFORE}(?:winner|verdict|answer|better answer|choice)(?:\s+is)?\s*[:=]?\s*)"
_NUMBER = r"([+-]?\d+)(?:\.0+)?"
_OF = r"(?:\s*(?:/|out\s+of)\s*(\d+)(?:\.0+)?|\s*(%)|\s*(?:points?|pts))?"
SCORE_LINE = re.compile(rf"({_LABEL})?{_NUMBER}{_OF}[.!]?", re.IGNORECASE | re.ASCII)
WINNER_LINE = re.compile(rf"{_NAMED}?(?:response|answer|model)?[\s_]*(A|B|tie|draw)[.!]?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Read:
    """score: a number on the scale; winner: A, B or tie. One of them is None."""

    score: int | None = None
    winner: str | None = None
    reason: str = ""


def read_score(text: str, low: int, high: int) -> Read | None:
    """A reply that is a score and nothing else."""
    text = _without_thoughts(text)
    value = _json(text)
    if value is not None:
        return _from_json(value, low, high)
    return _score_line(text, low, high)


def read_rubric(text: str, low: int, high: int) -> Read | None:
    """A reason, then a last line that is a score and says so. Another line with another score makes it unread."""
    text = _without_thoughts(text)
    value = _json(text)
    if value is not None:
        return _from_json(value, low, high)
    *reason, last = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    read = _score_line(last, low, high, labelled=bool(reason))
    others = [_score_line(line, low, high, labelled=True) for line in reason]
    if read is None or any(other is not None and other.score != read.score for other in others):
        return None
    return Read(score=read.score, reason="\n".join(reason))


def read_winner(text: str) -> Read | None:
    """A reply that names A, B or a tie and nothing else."""
    text = _without_thoughts(text)
    value = _json(text)
    if value is not None:
        winner = value.get("winner")
        text = winner if isinstance(winner, str) else ""
    match = WINNER_LINE.fullmatch(_without_marks(text))
    if match is None:
        return None
    letter = match.group(1).upper()
    reason = value.get("reason") if value else ""
    return Read(winner=letter if letter in ("A", "B") else "tie", reason=reason if isinstance(reason, str) else "")


def _score_line(text: str, low: int, high: int, *, labelled: bool = False) -> Read | None:
    """labelled: the line must say that its number is the score, by a word or by the scale behind it."""
    match = SCORE_LINE.fullmatch(_without_marks(text))
    if match is None:
        return None
    label, number, of, percent = match.groups()
    if labelled and not (label or of):
        return None
    if (of and int(of[:9]) != high) or (percent and (low, high) != (0, 100)):
        return None
    return _within(int(number), low, high) if len(number) < 9 else None


def _within(number: int, low: int, high: int, reason: str = "") -> Read | None:
    return Read(score=number, reason=reason) if low <= number <= high else None


def _without_thoughts(text: str) -> str:
    return re.sub(r"\A\s*<think>.*?</think>", "", text, count=1, flags=re.DOTALL).strip()


def _without_marks(text: str) -> str:
    """Without Markdown's stars and backticks, quotes and brackets around the whole or around the label."""
    return " ".join(re.sub(r"[*`\"'“”]|\[\[|\]\]|^#+\s|\A\((?=\w+\)\Z)|(?<=\w)\)\Z", "", text).split())


def _json(text: str) -> dict[str, Any] | None:
    """The one JSON object that the text is, also in a code fence; {} if it is broken or names a key twice."""
    fenced = re.fullmatch(r"```(?:json)?\s*(\{.*\})\s*```", text, flags=re.DOTALL)
    text = fenced.group(1) if fenced else text
    if not (text.startswith("{") and text.endswith("}")):
        return None
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _from_json(value: dict[str, Any], low: int, high: int) -> Read | None:
    score, reason = value.get("score"), value.get("reason", "")
    if isinstance(score, float) and score.is_integer():
        score = int(score)
    if isinstance(score, str):
        read = _score_line(score, low, high)
        score = read.score if read else None
    if isinstance(score, bool) or not isinstance(score, int):
        return None
    return _within(score, low, high, reason if isinstance(reason, str) else "")
