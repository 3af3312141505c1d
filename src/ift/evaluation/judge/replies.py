"""What a judge's reply says, by a grammar that guesses nothing: a reply that could be read in two ways is unread.

A score       85   85/100   85 out of 100   85%   Score: 85   **Rating:** 85/100   评分：85   ８５   {"score": 85}
A rubric      the reason in sentences, then a last line as above that names the score: Score: 4   or   4/5
              {"reason": "...", "score": 4}
A winner      A   B   tie   Winner: A   [[B]]   {"winner": "tie"}

Numbers are whole, in the digits of any script, and within the scale. Thoughts, <think>...</think>, may come first, and
words without any number around a JSON object.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from ift.evaluation.judge.bodies import split_thoughts

_BEFORE = r"(?:(?:the|my|final|overall|your)\s+)*"
_SCORE = (
    r"score|rating|grade|mark|Punktzahl|Bewertung|Note|puntuación|puntaje|calificación|nota|pontuação|punteggio|voto|"
    r"оценка|балл|评分|得分|分数|評分|得分|分數|スコア|点数|評価|점수|평점"
)
_WINNER = (
    r"winner|verdict|answer|better answer|choice|Sieger|Gewinner|ganador|vencedor|gagnant|победитель|"
    r"胜者|獲勝者|勝者|승자"
)
_TIE = r"tie|draw|Unentschieden|empate|égalité|pareggio|ничья|平局|平手|引き分け|무승부"
_LABEL = rf"(?:{_BEFORE}(?:{_SCORE})(?:\s+is)?\s*[:=–]?\s*)"
_NAMED = rf"(?:{_BEFORE}(?:{_WINNER})(?:\s+is)?\s*[:=]?\s*)"
_NUMBER = r"([+-]?[0-9]+)(?:\.0+)?"
_POINTS = r"points?|pts|Punkte?|puntos?|pontos?|punti|баллов|балла?|分|点|點|점"
_OF = rf"(?:\s*(?:/|out\s+of)\s*([0-9]+)(?:\.0+)?|\s*(%)|\s*(?:{_POINTS}))?"
SCORE_LINE = re.compile(rf"({_LABEL})?{_NUMBER}{_OF}[.!。]?", re.IGNORECASE)
WINNER_LINE = re.compile(rf"{_NAMED}?(?:response|answer|model)?[\s_]*(A|B|{_TIE})[.!。]?", re.IGNORECASE)


@dataclass(frozen=True)
class Read:
    """score: a number on the scale; winner: A, B or tie. One of them is None."""

    score: int | None = None
    winner: str | None = None
    reason: str = ""


def read_score(text: str, low: int, high: int) -> Read | None:
    """A reply that is a score and nothing else, once or the same one in each line."""
    text = _without_thoughts(text)
    value = _json(text)
    if value is not None:
        return _from_json(value, low, high)
    whole = _score_line(text, low, high)
    each = [_score_line(line, low, high) for line in text.splitlines() if line.strip()]
    return whole or (each[0] if each and all(read and read == each[0] for read in each) else None)


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
    """And with digits of every script, and signs of full width, as ASCII has them."""
    return "".join(map(_plain, split_thoughts(text)[1])).strip()


def _plain(char: str) -> str:
    if "！" <= char <= "～":  # the block of full width has ASCII's order
        return chr(ord(char) - ord("！") + ord("!"))
    return str(unicodedata.decimal(char, char))


def _without_marks(text: str) -> str:
    """Without Markdown's stars and backticks, quotes and brackets around the whole or around the label."""
    return " ".join(re.sub(r"[*`\"'“”]|\[\[|\]\]|^#+\s|\A\((?=\w+\)\Z)|(?<=\w)\)\Z", "", text).split())


def _json(text: str) -> dict[str, Any] | None:
    """The one JSON object in a text, also in a code fence or between words; {} if it is broken or names a key twice.

    None where there is none, or a number beside it that might be meant instead.
    """
    if text.startswith("{") and text.endswith("}"):
        begin, end = 0, len(text)
    else:
        begin, end = text.find("{"), text.rfind("}") + 1
        if begin < 0 or end <= begin or re.search(r"\d", text[:begin] + text[end:]):
            return None
    try:
        value = json.loads(text[begin:end], object_pairs_hook=_once)
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
