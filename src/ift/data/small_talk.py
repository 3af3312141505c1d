"""Real rows for everyone: two thousand short English questions and answers that people wrote for a chat program.

They are the corpus of ChatterBot (Cox; BSD licence), in the package chatterbot-corpus of PyPI: small talk, trivia, help
with computers and programs. Half of them are there more than once.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]

from ift.run import write_jsonl
from ift.wheels import Wheel, made_of

WHEEL = Wheel("chatterbot-corpus", "1.3.3", "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154")
FILE = "small_talk.jsonl"


def small_talk() -> Path:
    """A file of rows with instruction, output and category, made once. Raises MachineError without the package."""
    return made_of(WHEEL, f"chatterbot-corpus-{WHEEL.version}", _write) / FILE


def _write(files: zipfile.ZipFile, folder: Path) -> None:
    names = sorted(name for name in files.namelist() if name.endswith(".yml") and "/data/english/" in name)
    rows = (
        {**row, "category": PurePosixPath(name).stem.replace("_", " ")}
        for name in names
        for row in talks(yaml.safe_load(files.read(name)))
    )
    write_jsonl(folder / FILE, rows)


def talks(corpus: Any) -> Iterator[dict[str, str]]:
    """The opening of each talk and the answer to it; what follows is another answer as often as a next turn."""
    for talk in corpus["conversations"]:
        texts = [str(text).strip() for text in talk] if isinstance(talk, list) else []  # a list that lost its dash
        if len(texts) > 1 and all(texts[:2]):
            yield {"instruction": texts[0], "output": texts[1]}
