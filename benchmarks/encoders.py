"""Tokens of texts by `ift`, against the library tokenizers on the same tokenizer.json and against the vendor's own.

python benchmarks/encoders.py [FILE...] [--rows 10000] [--strings 10000] [--rounds 3] [--only NAME...]
                                    needs what `vocabularies.py` names; what is not installed is left out, and named

texts   those of the rows of the files, shuffled: instructions, inputs and answers, some joined, to the number asked
        for; and random strings of letters of all scripts, white space, digits, punctuation and special tokens spelled
equal   ids against tokenizers.Tokenizer.from_file: with all that the file says for a text that spells no mark, and
        without its marks and special tokens for one that does (here no text becomes one); and the vendor's library
speed   tokens a second on the rows, one text at a time by one thread, `ift` and the library in turn; the ratio is of
        the medians. Where `ift` encodes by the library too, it is near 1.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
from vocabularies import NOT_THERE, VOCABULARIES

from ift.text.folder_tokenizer import FolderTokenizer
from ift.text.tokenizer_files import read_tokenizer

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    " \t\n\r\xa0\u2003\u3000\x0b\x85",
    "0123456789²½٣१",
    ".,;:!?'\"-_/\\()[]{}<>|@#$%^&*+=~`’“”…",
    "äöüßéèñçøåłžđİıſK",
    "e\u0301a\u0308o\u0302n\u0303\u0327\u0323\u1100\u1161\u11a8\u0f71\u0f72",
    "абвгдежзийклмнопρστυφχψωאבגדהוαβγابتثج",
    "日本語文字列中华人民共和国한국어조선말हिन्दीไทย",
    "😀👍🏽\u200d👩🇩🇪❤\ufe0f∑√→€™",
    "\x00\x01\x07\x1b\x7f\ufeff\ufffd\u202e\u200b",
]
COMMON = [
    "the",
    " of",
    "ing",
    " and",
    "'s",
    "'re",
    "I'LL",
    "    ",
    "\n\n",
    "\r\n",
    "  ",
    "1234",
    "http://",
    "def ",
    "e\u0301",
]


class Report(NamedTuple):
    name: str
    encoder: str
    rows: int  # compared
    strings: int
    differences: int
    undecoded: int  # texts that the ids do not decode to, as the tokenizer writes them
    of_vendor: int | None  # texts whose ids differ from the vendor's
    first: str  # text that differs


def texts_of(files: Iterable[Path], number: int, seed: int = 0) -> list[str]:
    """So many texts of the rows of JSON files, shuffled; joined ones where there are too few."""
    found: list[str] = []

    def collect(value: object) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict):
            for each in value.values():
                collect(each)
        elif isinstance(value, list):
            for each in value:
                collect(each)

    for file in files:
        collect(json.loads(file.read_text(encoding="utf-8")))
    draw = random.Random(seed)
    texts = sorted({text for text in found if text})
    draw.shuffle(texts)
    while len(texts) < number:
        texts.append(draw.choice(("\n\n", " ", "\n### Response:\n", "")).join(draw.sample(texts, 3)))
    return texts[:number]


def random_strings(number: int, marks: list[str], seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    strings = []
    for i in range(number):
        if i % 10 == 9:  # any character at all
            codes = draw.choices(range(0x10F800), k=draw.randint(1, 30))
            strings.append("".join(chr(code if code < 0xD800 else code + 0x800) for code in codes))
            continue
        parts = []
        for _ in range(draw.randint(1, 12)):
            kind = draw.random()
            if kind < 0.08 and marks:
                parts.append(draw.choice(marks))
            elif kind < 0.25:
                parts.append(draw.choice(COMMON) * draw.randint(1, 3))
            else:
                parts.append("".join(draw.choices(draw.choice(ALPHABETS), k=draw.randint(1, 8))))
        strings.append("".join(parts))
    return strings


def references(folder: Path, ours: FolderTokenizer) -> Callable[[str], list[int]]:
    """The library's ids by the file as it is, and for a text that spells a mark by the file without its marks."""
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    whole = tokenizers.Tokenizer.from_str(json.dumps({**stored, "truncation": None, "padding": None}))
    words = [entry for entry in stored["added_tokens"] if entry["id"] not in ours.special]
    model = dict(stored["model"])
    if isinstance(model["vocab"], dict):  # numbers of added tokens are those of the vocabulary
        model["vocab"] = {**model["vocab"], **{entry["content"]: entry["id"] for entry in words}}
        if not ours.published.byte_level:  # conversion of SentencePiece can list merges that make "<s>"
            pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
            model["merges"] = [pair for pair in pairs if "".join(pair) not in ours.special_ids]
    plain = tokenizers.Tokenizer.from_str(json.dumps({**stored, "added_tokens": words, "model": model}))
    marks = list(ours.special_ids)

    def encode(text: str) -> list[int]:
        library = plain if any(mark in text for mark in marks) else whole
        ids: list[int] = library.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def compare(name: str, folder: Path, rows: list[str], strings: int) -> Report:
    """Raises one of NOT_THERE where the vocabulary's package is not installed."""
    vendor = VOCABULARIES[name](folder)
    ours = read_tokenizer(folder)
    theirs = references(folder, ours)
    texts = [*rows, *random_strings(strings, list(ours.special_ids)[:30])]
    differing, undecoded, of_vendor = [], 0, 0
    for text in texts:
        ids = ours.encode(text, "start")
        if ids != theirs(text):
            differing.append(text)
        undecoded += ours.decode_bytes(ids) != ours.written(text, "start")
        of_vendor += vendor is not None and vendor(text) not in (None, ids)
    first = differing[0] if differing else ""
    return Report(
        name, ours.encoder, len(rows), strings, len(differing), undecoded, of_vendor if vendor else None, first
    )


def speed(folder: Path, texts: list[str], rounds: int) -> dict[str, float]:
    """Tokens a second by each, medians over the rounds."""
    ours = read_tokenizer(folder)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    count = sum(len(ours.encode(text, "start")) for text in texts)
    ways: dict[str, Callable[[], object]] = {
        "ift": lambda: [ours.encode(text, "start") for text in texts],
        "encode": lambda: [theirs.encode(text, add_special_tokens=False).ids for text in texts],
        "encode_batch": lambda: [one.ids for one in theirs.encode_batch(texts, add_special_tokens=False)],
        "encode_batch_fast": lambda: [one.ids for one in theirs.encode_batch_fast(texts, add_special_tokens=False)],
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[way].append(time.perf_counter() - started)
    return {way: count / statistics.median(times) for way, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--strings", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(VOCABULARIES))
    arguments = parser.parse_args()
    rows = texts_of(arguments.files, arguments.rows) if arguments.files else []
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.only:
            folder = Path(scratch) / name.replace(" ", "_")
            try:
                report = compare(name, folder, rows, arguments.strings)
            except NOT_THERE as error:
                print(f"{name:<12} left out: {error}")
                continue
            vendor = "-" if report.of_vendor is None else str(report.of_vendor)
            print(
                f"{name:<12} {report.encoder:<10} rows {report.rows:,} strings {report.strings:,}: "
                f"{report.differences} differ, {report.undecoded} not decoded, {vendor} differ from the vendor's",
                flush=True,
            )
            if report.first:
                print(f"             first: {report.first[:200]!r}")
            if rows and arguments.rounds:
                rates = speed(folder, rows[:2000], arguments.rounds)
                print(
                    "             tokens/s:",
                    ", ".join(f"{way} {rate / 1e6:.2f} M" for way, rate in rates.items()),
                    "; ift is",
                    ", ".join(f"{rates['ift'] / rate:.1f}x {way}" for way, rate in rates.items() if way != "ift"),
                    flush=True,
                )


if __name__ == "__main__":
    main()
