"""Rows to checked tokens on disk, against the fast tokenizer of Hugging Face on the same rows and cores, side by side.

python benchmarks/tokenising.py FILE [--rounds 3]        needs GPT-2's vocabulary and pip install "ift[test]"

ours    everything `ift check` does before the split: reading, rendering, tokens, the proof of every row, writing
        (near twins left out); by as many processes as there are cores
theirs  `tokenizers` on texts that lie rendered in memory, encode_batch by as many threads as there are cores; or
        the usual way, `datasets.map` in batches with as many processes

Rounds alternate, so that whatever else the machine does falls on all; the ratio is of the medians. Then ours once
more on half the rows: linear growth is a ratio near 2, less the two seconds that starting processes takes.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "true"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    import datasets
    from tokenizers import Tokenizer as TheirTokenizer

    from ift.cli import check_settings
    from ift.data.contract.cache import open_store
    from ift.data.contract.check import Checker
    from ift.data.reading.containers import read_records
    from ift.data.reading.rows import make_row
    from ift.data.reading.sources import Source
    from ift.data.vocabulary import load_tokenizer
    from ift.text.chat_templates import template_from

    settings = check_settings([str(arguments.file)], [])
    template = template_from(settings.prompt)
    tokenizer = load_tokenizer("gpt2", template)
    fields = asdict(settings.data.fields)
    folder = Path(tempfile.mkdtemp())
    tokenizer.save(folder, context_length=1024)
    theirs = TheirTokenizer.from_file(str(folder / "tokenizer.json"))
    cores = len(os.sched_getaffinity(0))

    texts = []
    for number, record in read_records(arguments.file):
        row = make_row(record, fields, file="f", number=number)
        texts.append("".join(piece.text for piece in template.pieces(row)))
    half = folder / "half.jsonl"
    with arguments.file.open() as file, half.open("w") as out:
        out.writelines(islice(file, len(texts) // 2))
    table = datasets.Dataset.from_dict({"text": texts})

    def ours(path: Path = arguments.file) -> None:
        checker = Checker(template, tokenizer, fields, 1024, "drop")
        with tempfile.TemporaryDirectory() as cache:
            open_store([Source("rows", "all", path=path)], checker, merge=False, twins=None, cache_dir=cache)

    def encode_batch() -> None:
        for start in range(0, len(texts), 1000):
            theirs.encode_batch(texts[start : start + 1000])

    def dataset_map() -> None:
        datasets.disable_progress_bars()
        table.map(
            lambda batch: {"ids": [encoding.ids for encoding in theirs.encode_batch(batch["text"])]},
            batched=True,
            num_proc=cores,
            load_from_cache_file=False,
            new_fingerprint=str(time.time()),
        )

    ways = {"ours": ours, "encode_batch": encode_batch, "datasets.map": dataset_map, "ours, half": lambda: ours(half)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    megabytes = arguments.file.stat().st_size / 1e6
    print(f"{len(texts):,} rows, {megabytes:.0f} MB, {cores} cores")
    for name, median in medians.items():
        print(f"{name:<14} {median:7.2f} s   ours takes {medians['ours'] / median:.2f} of it")


if __name__ == "__main__":
    main()
