"""One checkout against another, side by side in one run: is it as fast, as small and as exact as what it replaces?

python benchmarks/before_and_after.py OLD                     OLD: the folder of the other checkout; this one is the new
python benchmarks/before_and_after.py OLD --losses            ten losses and greedy answers, compared for equality alone
python benchmarks/before_and_after.py OLD --rows FILE         rows of yours instead of made ones of Alpaca's lengths
python benchmarks/before_and_after.py OLD --rounds 1 --steps 3 --small        a trial

training-bf16, training-fp32   seconds a step of GPT-2 small, by tokens and tokens_per_second of metrics.jsonl; the
                               first step warms up
answers                        evaluate.py eval=responses: greedy answers to a tenth of the rows (110 of the made ones)
start                          the whole of train.py with one step

Both sides run the commands of their own checkout, which must know the settings used here, in this Python environment,
on the same rows and seed, so on the same fresh weights. A round is each side once, every other one in the other order.
Ratios are new over old, made within a round: below 1 the new one is better. Memory is the process's largest resident
size. Each measurement is a line of JSON in --output. Exit code 1 where losses or answers differ.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from side_by_side import environment, turns

HERE = Path(__file__).parents[1]
NEW_TOKENS = 64  # of an answer
SMALL = ("model.n_layer=1", "model.n_head=2", "model.n_embd=16", "model.context_length=2048", "model.tokenizer=demo")
# nothing is sampled, validated on the way, stopped early or logged elsewhere: what is left is training
PLAIN = ("logger=none", "samples.rows=0", "trainer.early_stopping.patience=null", "seed=1", "trainer.accelerator=cpu")
GPT2 = ("model=gpt2-small", "model.pretrained=null", "data=json", "data.batch_size=8", "optim.lr=1e-4")
WORDS = """the of and to in is that it was for on are with as they be at this have from or one had by word but not what
    all were we when your can there use an each which she do how their if will up other about out many then
    them these so some her would make like him into time has look two more write go see number no way could
    people my than first water been call who its now find long down day did get come made may part over new
    sound take only little work know place year live back give most very after thing our just name good
    sentence man think say great where help through much before line right too mean old any same tell boy
    follow came want show also around form three small set put end does another well large must big even
    such because turn here why ask went men read need land different home us move try kind hand picture
    again change off play spell air away animal house point page letter mother answer found study still
    learn should world""".split()
CHAPTER = (  # the recipe, on a network that takes seconds
    "experiment=seed_chapter", "model.pretrained=null",
    "model.n_layer=4", "model.n_head=4", "model.n_embd=256", "model.context_length=512",
)  # fmt: skip


# -- what is measured --------------------------------------------------------------------------------------------------


def run(checkout: Path, script: str, *words: str, cache: Path) -> dict[str, float]:
    """A command of a checkout: seconds and bytes of its process. Raises SystemExit with its last words if it fails."""
    variables = {**environment(own=True), "PYTHONPATH": str(checkout / "src"), "IFT_CACHE_DIR": str(cache)}
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(checkout / script), *words],
            cwd=cache.parent, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{checkout}: {script} {' '.join(words)}\n{output.read()[-2000:]}")
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def seconds_a_step(metrics: Sequence[dict[str, Any]]) -> float:
    """Mean over the steps after the first: a step's tokens over its tokens per second."""
    steps = [line for line in metrics if "tokens_per_second" in line]
    taken = [(line["tokens"] - before["tokens"]) / line["tokens_per_second"] for before, line in pairwise(steps)]
    return statistics.fmean(taken)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def losses_of(run: Path) -> list[tuple[int, str, float]]:
    return [(m["step"], key, m[key]) for m in lines_of(run / "metrics.jsonl") for key in sorted(m) if "/loss" in key]


def answers_of(run: Path) -> list[tuple[str, str, int]]:
    """Response, reason of its end and number of tokens of each test row."""
    rows = lines_of(run / "responses.jsonl")
    return [(row["response"], row["stop_reason"], row["response_tokens"]) for row in rows]


def first_difference(what: str, old: Sequence[Any], new: Sequence[Any]) -> str | None:
    if len(old) != len(new):
        return f"{what}: {len(old)} and {len(new)}"
    return next((f"{what}: {a} and {b}" for a, b in zip(old, new, strict=True) if a != b), None)


def spread(old: Sequence[float], new: Sequence[float]) -> str:
    """Ratios new over old of the rounds: median, least, largest."""
    ratios = [b / a for a, b in zip(old, new, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


# -- rows --------------------------------------------------------------------------------------------------------------


def made_rows(number: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of common words in no order, about as long as Alpaca's: some ten words ask, some forty answer."""
    draw = random.Random(seed)

    def text(median: float, most: int) -> str:
        length = round(draw.lognormvariate(math.log(median), 0.8))
        return " ".join(draw.choices(WORDS, k=min(max(length, 6), most)))

    return [{"instruction": text(10, 40), "input": "", "output": text(40, 250)} for _ in range(number)]


# -- all of them -------------------------------------------------------------------------------------------------------


class Sides:
    """The two checkouts, with a folder for all that they write."""

    def __init__(self, old: Path, new: Path, folder: Path, output: Path):
        self.checkouts = {"old": old.resolve(), "new": new.resolve()}
        self.folder, self.output = folder, output
        self.failures: list[str] = []
        output.parent.mkdir(parents=True, exist_ok=True)

    def command(self, side: str, script: str, *words: str) -> dict[str, float]:
        cache = self.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)  # every start reads the rows anew
        return run(self.checkouts[side], script, *words, cache=cache)

    def train(self, side: str, *words: str) -> tuple[Path, dict[str, float]]:
        """A training in a new folder: the folder, and what it took."""
        target = self.folder / f"run-{side}"
        shutil.rmtree(target, ignore_errors=True)
        return target, self.command(side, "train.py", f"output_dir={target}", *words, *PLAIN)

    def equal(self, name: str, runs: dict[str, Path], *, losses: bool = True) -> None:
        pairs = [("answers", answers_of)] + ([("losses", losses_of)] if losses else [])
        for what, read in pairs:
            difference = first_difference(f"{name}, {what}", read(runs["old"]), read(runs["new"]))
            self.failures += [difference] if difference else []
            print(difference or f"{name}: {len(read(runs['new']))} {what} equal", flush=True)

    def note(self, name: str, side: str, number: int, values: dict[str, float]) -> None:
        with self.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"measurement": name, "side": side, "round": number, **values}) + "\n")


def compare_losses(sides: Sides, rows: Path, *, steps: int) -> None:
    """Equal to the last bit: the demo and the seed chapter's recipe in fp32, then greedy answers of their models."""
    length = (f"trainer.max_steps={steps}", "trainer.precision=fp32", "generate.max_new_tokens=32")
    for name, words in (("demo", ()), ("seed_chapter", (*CHAPTER, f"data.path={rows}"))):
        runs = {side: sides.train(side, *words, *length)[0] for side in sides.checkouts}
        sides.equal(name, runs)


def measure(sides: Sides, rows: Path, names: Sequence[str], *, rounds: int, steps: int, small: bool) -> None:
    words = (*GPT2, f"data.path={rows}", "generate.max_new_tokens=1", *(SMALL if small else ()))
    base = sides.folder / "answered"
    if "answers" in names:  # by the old side: a new release reads the runs of the one before
        made, _ = sides.train("old", *words, "trainer.max_steps=1", "trainer.precision=fp32")
        made.rename(base)
    taken: dict[str, dict[str, list[dict[str, float]]]] = {name: {"old": [], "new": []} for name in names}
    for number in range(rounds):
        for name in names:
            runs = {}
            for side in turns(list(sides.checkouts), number):
                if name == "answers":
                    runs[side] = sides.folder / f"answers-{side}"
                    shutil.rmtree(runs[side], ignore_errors=True)
                    shutil.copytree(base, runs[side])
                    choice = (f"run={runs[side]}", "eval=responses", "accelerator=cpu")
                    values = sides.command(
                        side, "evaluate.py", *choice, "precision=fp32", f"eval.generate.max_new_tokens={NEW_TOKENS}"
                    )
                else:
                    precision = name.partition("-")[2] or "fp32"
                    count = 1 if name == "start" else steps
                    length = (f"trainer.max_steps={count}", f"trainer.val_every={count}")
                    runs[side], values = sides.train(side, *words, *length, f"trainer.precision={precision}")
                    if name != "start":
                        values["process_seconds"] = values["seconds"]
                        values["seconds"] = seconds_a_step(lines_of(runs[side] / "metrics.jsonl"))
                taken[name][side].append(values)
                sides.note(name, side, number, values)
                print(
                    f"{name:<14} {side}  {values['seconds']:9.3f} s  {values['peak_bytes'] / 1e6:7.0f} MB", flush=True
                )
            if number == 0:  # bf16 may round another way: only answers of the same weights must be the same
                sides.equal(name, runs, losses=name in ("training-fp32", "start"))
    print(f"\nnew over old, {rounds} rounds: median (least to largest)\n\n| | time | memory |\n|---|---|---|")
    for name, values_of in taken.items():
        by_key = [
            spread(*([values[key] for values in values_of[side]] for side in ("old", "new")))
            for key in ("seconds", "peak_bytes")
        ]
        print(f"| {name} | {' | '.join(by_key)} |")


def main() -> int:
    everything = ("training-bf16", "training-fp32", "answers", "start")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("--new", type=Path, default=HERE)
    parser.add_argument("--losses", action="store_true")
    parser.add_argument("--only", nargs="+", choices=everything, default=everything)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rows", type=Path, help="a file of instruction, input and output")
    parser.add_argument("--small", action="store_true", help="a network of a few thousand parameters: a trial")
    parser.add_argument("--output", type=Path, default=Path("results/before_and_after.jsonl"))
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ift-before-") as name:
        folder = Path(name)
        rows = folder / "rows.json"
        rows.write_text(a.rows.read_text(encoding="utf-8") if a.rows else json.dumps(made_rows(1100)))
        sides = Sides(a.old, a.new, folder, a.output)
        if a.losses:
            compare_losses(sides, rows, steps=10)
        else:
            measure(sides, rows, a.only, rounds=a.rounds, steps=a.steps, small=a.small)
    return int(bool(sides.failures))


if __name__ == "__main__":
    sys.exit(main())
