"""The whole command beside those of others: start, train, validate, keep the best, save; from nothing to the prompt.

python benchmarks/whole_command.py --rows FILE                       GPT-2 small, two epochs, fp32
python benchmarks/whole_command.py --rows FILE --layers 4 --width 256 --heads 4
python benchmarks/whole_command.py --rows FILE --only "ift" "Trainer"

The same rows, weights, prompt, epochs, rate and batch for all, validation and a checkpoint at the same steps, the best
model loaded at the end and saved. What is timed is a process from its start to its end. Rounds alternate until the
interval of each ratio is narrower than 15 %, or until --rounds. Before each process the machine's own matmul peak is
measured: where that varies, so does everything. Who is not installed here or in --cache is left out with a line.

ift                 as it comes: the untuned model measured too, sample answers, test rows answered, a report
ift, the same work  training, validation, the best model and checkpoints, as the others do
Trainer             transformers' own, rows grouped by length
TRL                 its SFTTrainer on the same prompts and completions, as it comes
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from side_by_side import (
    CACHE,
    Column,
    Contestant,
    Lines,
    Outcome,
    environment,
    run,
    settled,
    table,
    turns,
)

SAME = ["samples.rows=0", "data.fractions={train: 0.9, val: 0.1, test: 0.0}"]
CONTESTANTS = [
    Contestant("ift, the same work", "whole_ours.py", options={"overrides": SAME}, note="no sample answers, no test"),
    Contestant("ift", "whole_ours.py", note="as it comes: with answers, test rows and a report"),
    Contestant("Trainer", "whole_peer.py", options={"trainer": "transformers"}, note="rows grouped by length"),
    Contestant("TRL", "whole_peer.py", "trl", {"trainer": "trl"}, note="as it comes"),
]
OURS = CONTESTANTS[0].name
PEAK = """
import time, torch
a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
def once():
    began = time.perf_counter()
    a @ b
    return 2 * 1024**3 / (time.perf_counter() - began) / 1e9
print(max(once() for _ in range(20)))
"""


def main() -> None:
    arguments = parsed()
    chosen = [c for c in CONTESTANTS if not arguments.only or c.name in arguments.only]
    pythons = {c.name: python for c in chosen if (python := python_with(c, arguments.cache))}
    for contestant in chosen:
        if contestant.name not in pythons:
            print(f"{contestant.name}: left out, its packages are neither here nor in {arguments.cache}", flush=True)
    there = [c for c in chosen if c.name in pythons]
    lines, outcomes, peaks = Lines(arguments.output / "whole_command.jsonl"), [], []
    with tempfile.TemporaryDirectory(prefix="whole-command-") as folder:
        job = prepare(Path(folder), arguments)
        for number in range(arguments.rounds):
            for contestant in turns(there, number):
                peaks.append(peak())
                target = Path(folder) / f"{number}-{there.index(contestant)}"  # no comma, which Hydra would read
                options = {**job, "output": str(target)}
                outcome = run(
                    contestant,
                    {"round": number, "precision": arguments.precision, "options": options},
                    python=pythons[contestant.name],
                    timeout=arguments.timeout,
                )
                outcomes.append(outcome)
                subprocess.run(["rm", "-rf", str(target)], check=True)
                lines.add("process", {**vars(outcome), "peak": peaks[-1]})
                print(f"round {number}  {contestant.name:<20}{outcome.invalid or told(outcome)}", flush=True)
            if settled(outcomes, OURS, [c.name for c in there if c.name != OURS], rate):
                break
    text = report(there, outcomes, peaks)
    (arguments.output / "whole_command.md").write_text(text)
    print(text)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="a JSON list of instruction, input, output")
    parser.add_argument("--limit", type=int, help="the first so many rows alone")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokenizer", default="gpt2", help="gpt2, or a folder that has one")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--validations", type=int, default=10, help="of a whole run")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=10, help="at most")
    parser.add_argument("--only", nargs="*", help="names of contestants")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--timeout", type=float, default=7200.0, help="seconds of one process")
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    return arguments


def python_with(contestant: Contestant, cache: Path) -> str | None:
    """An interpreter that has what the contestant imports: this one, or one that benchmarks/training.py has made."""
    package = contestant.options.get("trainer", "ift")
    theirs = cache / str(contestant.environment or "trl") / "bin" / "python"
    for python in (sys.executable, str(theirs)):
        found = Path(python).exists() and subprocess.run(
            [python, "-c", f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"],
            check=False,
        )
        if found and found.returncode == 0:
            return python
    return None


def prepare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows in two files and fresh weights with their tokenizer, as every contestant is given them."""
    import torch

    from ift.artifacts.weights import build_model, save_weights
    from ift.model.config import GPTConfig
    from ift.text.tokenizer_files import read_tokenizer
    from ift.text.tokenizers import Tokenizer

    rows = json.loads(arguments.rows.read_text(encoding="utf-8"))[: arguments.limit]
    random.Random(0).shuffle(rows)
    at = max(1, len(rows) // 20)
    files = {"val": rows[:at], "train": rows[at:]}
    for name, part in files.items():
        (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
    tokenizer = Tokenizer.gpt2() if arguments.tokenizer == "gpt2" else read_tokenizer(Path(arguments.tokenizer))
    config = GPTConfig(
        vocab_size=tokenizer.vocab_size, context_length=1024,
        n_layer=arguments.layers, n_head=arguments.heads, n_embd=arguments.width,
    )  # fmt: skip
    torch.manual_seed(0)
    (folder / "model").mkdir()
    save_weights(build_model(config, None), folder / "model", end_of_text=tokenizer.end_of_text)
    tokenizer.save(folder / "model", context_length=1024)
    steps = math.ceil(len(files["train"]) / 8) * arguments.epochs
    return {
        "model": str(folder / "model"), "train": str(folder / "train.json"), "val": str(folder / "val.json"),
        "epochs": arguments.epochs, "every": math.ceil(steps / arguments.validations), "batch": 8, "lr": 5e-5,
    }  # fmt: skip


def peak() -> float:
    """GFLOP/s of the best of some products of 1,024 by 1,024 in fp32, with the threads that all have."""
    done = subprocess.run([sys.executable, "-c", PEAK], env=environment(own=True), capture_output=True, text=True)
    return float(done.stdout)


def seconds(values: dict[str, Any]) -> float:
    return float(values["wall"])


def rate(values: dict[str, Any]) -> float:
    return 1 / seconds(values)


def told(outcome: Outcome) -> str:
    return f"{seconds(outcome.values):8.1f} s, best validation loss {outcome.values['val_loss']:.4f}"


def report(there: list[Contestant], outcomes: list[Outcome], peaks: list[float]) -> str:
    columns = [
        Column("seconds", seconds, "{:,.1f}"),
        Column("first step after", lambda values: values.get("first_step"), "{:,.1f}"),
        Column("best val/loss", lambda values: values.get("val_loss"), "{:.4f}"),
        Column("peak GB", lambda values: values.get("memory", math.nan) / 1e9, "{:.2f}"),
    ]
    quarters = statistics.quantiles(peaks, n=4) if len(peaks) > 1 else [peaks[0]] * 3
    return (
        table(there, outcomes, columns, rate=rate, ours=OURS)
        + f"\nThe machine's own matmul peak, before each process: median {quarters[1]:.0f} GFLOP/s, quartiles "
        f"{quarters[0]:.0f} to {quarters[2]:.0f}, {min(peaks):.0f} to {max(peaks):.0f} in all "
        f"({len(peaks)} times; {time.strftime('%Y-%m-%d')}).\n"
    )


if __name__ == "__main__":
    main()
