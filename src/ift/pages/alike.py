"""Whether losses of runs may stand side by side: on the same rows, in the same tokens, behind the same prompt.

A loss is per supervised token. Of another tokenizer, other rows, another prompt or other cuts it is another number, and
says nothing of which run is better. Of another tokenizer alone, bits per byte can be held against each other
(ift.data.text_size).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from ift.forms import DATA_REPORT
from ift.run import DAMAGE, RunFolder, read_object

WHERE = ("file", "number")  # a row stood: the same row may have come from a copy of the file
TEST_ROWS, OTHER_ROWS, TOKENIZER = "test rows", "training and validation rows", "tokenizer"
IN_LOSS = "in the loss"


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
    return lettered([rows_tested(run) for run in runs])


def lettered(values: Sequence[str | None]) -> list[str]:
    """A for the first value and all that are equal to it, B for the next ... ; "" for None."""
    known = list(dict.fromkeys(each for each in values if each))
    return ["" if each is None else _letter(known.index(each)) for each in values]


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else str(place + 1)


def tokenizers(runs: Sequence[RunFolder]) -> list[str]:
    """The tokenizer of each run; "" where it is not known."""
    return _tokenizers_of([_report(run) for run in runs])


def differ(found: Sequence[str]) -> bool:
    """Whether two of these letters are not the same."""
    return len(set(found) - {""}) > 1


def apart(runs: Sequence[RunFolder]) -> list[tuple[str, list[str]]]:
    """What the runs' losses were measured with that is not the same for all: (what, each run's; "" where not known).

    Rows have letters, the same for the same rows.
    """
    reports = [_report(run) for run in runs]

    def text(key: str) -> list[str]:
        return [_short(report.get(key)) for report in reports]

    prompts = [
        " ".join(filter(None, (name, hash[:6]))) for name, hash in zip(text("prompt"), text("prompt_hash"), strict=True)
    ]
    masked = [report.get("prompt_masked") for report in reports]
    in_loss = ["response" if each is True else "prompt and response" if each is False else "" for each in masked]
    tested, of_all = letters(runs), lettered([_splits(report) for report in reports])
    found = [
        (TEST_ROWS, tested),
        (OTHER_ROWS, [] if differ(tested) else of_all),  # which differ where the test rows do
        (TOKENIZER, _tokenizers_of(reports)),
        ("prompt", prompts),
        (IN_LOSS, in_loss),
        ("longest row", text("max_length")),
    ]
    return [(what, values) for what, values in found if differ(values)]


def _report(run: RunFolder) -> dict[str, Any]:
    return read_object(run.data_report, DATA_REPORT, advice="")[0]


def _tokenizers_of(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Each run's tokenizer; with its hash where two of one name are not the same. Older runs know no hash."""
    names, hashes = ([_short(report.get(key)) for report in reports] for key in ("tokenizer", "tokenizer_hash"))
    known = [{hash for other, hash in zip(names, hashes, strict=True) if other == name and hash} for name in names]
    return [
        f"{name} {hash[:6] or '?'}" if name and len(all_of_it) > 1 else name
        for name, hash, all_of_it in zip(names, hashes, known, strict=True)
    ]


def _splits(report: dict[str, Any]) -> str | None:
    """The rows of training, validation and test, each by its content, and where one split ends."""
    fingerprint = report.get("fingerprint")
    return json.dumps([fingerprint, report.get("splits")], sort_keys=True) if isinstance(fingerprint, str) else None


def _short(value: Any) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
