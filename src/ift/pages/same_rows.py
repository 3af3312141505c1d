"""Whether runs were tested on the same rows: if not, their losses and scores are numbers of different tests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from ift.run import DAMAGE, RunFolder

WHERE = ("file", "number")  # a row stood: the same row may have come from a copy of the file


def rows_tested(run: RunFolder) -> str | None:
    """A hash of the texts of a run's test rows, in whatever order; None where there is no test.jsonl to be read."""
    rows = []
    try:
        with run.test_rows.open(encoding="utf-8") as file:
            for line in file:
                row = {name: value for name, value in json.loads(line).items() if name not in WHERE}
                rows.append(hashlib.sha256(json.dumps(row, sort_keys=True).encode()).digest())
    except DAMAGE:
        return None
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def letters(runs: Sequence[RunFolder]) -> list[str]:
    """A for the first run and all that were tested on the same rows, B for others ... ; "" where it is not known."""
    hashes = [rows_tested(run) for run in runs]
    known = list(dict.fromkeys(each for each in hashes if each))
    return ["" if each is None else _letter(known.index(each)) for each in hashes]


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def differ(found: Sequence[str]) -> bool:
    """Whether two of these letters are not the same."""
    return len(set(found) - {""}) > 1
