"""Battles: two models answered the same instruction, and someone said which answer is better. Needs no torch.

The columns are those of the Chatbot Arena's public files: model_a, model_b, winner (model_a, model_b, tie or
"tie (bothbad)"), judge, tstamp. Read as they are, JSON, JSONL, CSV or Parquet, also gzipped:

    chatbot_arena_conversations, arena-human-preference-100k, -140k     winner (the last says both_bad)
    clean_battle_*.json of the Arena's notebooks                        winner, anony
    arena-human-preference-55k                                          winner_model_a, winner_model_b, winner_tie
"""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.data.reading.containers import read_records
from ift.data.reading.window import Unreadable
from ift.errors import ConfigError, DataError, one_line
from ift.run import write_jsonl

TIE, BOTH_BAD = "tie", "tie (bothbad)"
WINNERS = ("model_a", "model_b", TIE, BOTH_BAD)
SPELLED = {**{winner: winner for winner in WINNERS}, "both_bad": BOTH_BAD, "bothbad": BOTH_BAD}
ONE_OF = {"winner_model_a": "model_a", "winner_model_b": "model_b", "winner_tie": TIE}
LONGEST_NAME = 100  # characters of a model's name


@dataclass(frozen=True, slots=True)
class Battle:
    """tstamp: seconds since 1970, 0 where it is not known. Texts are there for one's own battles alone."""

    model_a: str
    model_b: str
    winner: str
    judge: str = ""
    tstamp: float = 0.0
    instruction: str = ""
    input: str = ""
    response_a: str = ""
    response_b: str = ""
    row: int | None = None  # in its file
    source: str = ""  # people, same answer, the name of a judge's verdicts, the name of a file

    @property
    def score(self) -> float:
        """Of model_a: 1 for a win, 0 for a loss, 0.5 for a tie of either kind."""
        return {"model_a": 1.0, "model_b": 0.0}.get(self.winner, 0.5)

    def to_json(self) -> dict[str, Any]:
        """Its known values, for samples.jsonl."""
        value = {name: getattr(self, name) for name in self.__slots__}
        return {name: text for name, text in value.items() if text not in ("", None)}


@dataclass(frozen=True)
class VoteFile:
    """What a file held: rows = len(battles) + len(dropped). dropped: the number of each row and why."""

    rows: int
    battles: list[Battle]
    dropped: list[tuple[int, str]]

    @property
    def reasons(self) -> Counter[str]:
        return Counter(reason for _, reason in self.dropped)


def read_votes(path: Path) -> VoteFile:
    """Every battle of a public file. Raises ConfigError where there is none, DataError where nothing can be used."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of votes (JSON, JSONL, CSV or Parquet with model_a, model_b, winner)")
    battles: list[Battle] = []
    dropped: list[tuple[int, str]] = []
    for number, record in read_records(path):
        try:
            battles.append(_battle(record, number, path.name))
        except ValueError as error:
            dropped.append((number, str(error)))
    found = VoteFile(len(battles) + len(dropped), battles, dropped)
    if not battles:
        reason, count = found.reasons.most_common(1)[0]
        raise DataError(f"{path}: no battle among {found.rows:,} rows ({count:,}: {reason})")
    return found


def _battle(record: Any, number: int, source: str) -> Battle:
    """Raises ValueError with the reason, of which there are few: they are counted."""
    if isinstance(record, Unreadable):
        raise ValueError("cannot be read")
    if not isinstance(record, dict):
        raise ValueError("not an object")
    a, b = (checked_name(record.get(name)) for name in ("model_a", "model_b"))
    if a == b:
        raise ValueError("a model against itself")
    winner = _winner(record)
    if record.get("anony") in (False, "False", "false", 0):  # the Arena's own leaderboard leaves these out as well
        raise ValueError("the names were shown (anony is false)")
    judge = record.get("judge")
    return Battle(
        model_a=a,
        model_b=b,
        winner=winner,
        judge=one_line(judge, LONGEST_NAME) if isinstance(judge, str) else "",
        tstamp=_seconds(record.get("tstamp", record.get("timestamp"))),
        row=number,
        source=source,
    )


def checked_name(value: Any) -> str:
    """A model's name. Raises ValueError for what is none."""
    if value is None:
        raise ValueError("no model_a or model_b")
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > LONGEST_NAME:
        raise ValueError(f"a model's name is no printable text of 1 to {LONGEST_NAME} characters")
    return value.strip()


def _winner(record: Mapping[str, Any]) -> str:
    if "winner" in record:
        winner = record["winner"]
        if not isinstance(winner, str) or winner not in SPELLED:
            raise ValueError("winner is none of model_a, model_b, tie, tie (bothbad)")
        return SPELLED[winner]
    if not any(name in record for name in ONE_OF):
        raise ValueError("no winner")
    won = [winner for name, winner in ONE_OF.items() if record.get(name) in (1, "1", "1.0", True, "True")]
    if len(won) != 1:
        raise ValueError("winner_model_a, winner_model_b, winner_tie: not exactly one of them is 1")
    return won[0]


def _seconds(value: Any) -> float:
    """A time as it may stand in such a file: a number, ISO text, or what Parquet makes of it. 0 for anything else."""
    try:
        if isinstance(value, str):
            value = float(value) if value.replace(".", "", 1).isdigit() else datetime.datetime.fromisoformat(value)
        if isinstance(value, datetime.datetime):
            value = value.timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e15
    return float(value) if known and math.isfinite(value) else 0.0


def write_votes(path: Path, battles: Iterable[Battle]) -> int:
    """JSONL with the Arena's columns, which `read_votes` and the Arena's own notebooks read; how many there are."""
    count = 0

    def lines() -> Iterator[dict[str, Any]]:
        nonlocal count
        for count, battle in enumerate(battles, start=1):
            prompt = "\n\n".join(filter(None, (battle.instruction, battle.input)))
            yield {
                "question_id": count,
                "model_a": battle.model_a,
                "model_b": battle.model_b,
                "winner": battle.winner,
                "judge": battle.judge,
                "conversation_a": _conversation(prompt, battle.response_a),
                "conversation_b": _conversation(prompt, battle.response_b),
                "turn": 1,
                "anony": True,
                "language": "unknown",
                "tstamp": battle.tstamp,
            }

    write_jsonl(path, lines())
    return count


def _conversation(prompt: str, response: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
