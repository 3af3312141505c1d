"""`ift estimate` beside what trainings then took: peak memory and seconds of a step, ten settings.

python benchmarks/estimate.py [--only TEXT] [--model FOLDER] [--steps 20]

Each setting is estimated, then trained for some steps of `ift train` in a process of its own,
which goes on while the first checkpoint is written. The seconds are the
median of its steps after the first two, by its metrics.jsonl; the memory is its summary's.
Prints a line of JSON for each.
--model adds two settings of a pretrained model's folder. The machine must be idle: the estimate measures its speed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SMALL = ["model=nano", "data.demo_rows=600", "data.twins=null"]
WIDE = [*SMALL, "model.n_embd=512", "model.n_head=8", "model.n_layer=6"]
SETTINGS: dict[str, list[str]] = {
    "nano": SMALL,
    "512 wide": WIDE,
    "512 wide, batch 64": [*WIDE, "data.batch_size=64"],
    "512 wide, padded": [*WIDE, "data.batching=padded"],
    "512 wide, no shared prefix": [*WIDE, "data.share_prefix=false", "prompt=alpaca"],
    "512 wide, accumulate 4": [*WIDE, "data.batch_size=8", "trainer.accumulate=4"],
    "512 wide, checkpointing": [*WIDE, "data.batch_size=96", "model.activation_checkpointing=true"],
    "512 wide, SGD": [*WIDE, "optim=sgd"],
    "512 wide, first layers frozen": [*WIDE, "model.freeze=[wte,wpe,h.0,h.1,h.2]"],
    "768 wide, 12 layers": [*WIDE, "model.n_embd=768", "model.n_head=12", "model.n_layer=12"],
}


def pretrained(folder: str) -> dict[str, list[str]]:
    """Settings of a model of one's own."""
    words = ["model=pretrained", f"model.pretrained={folder}", "data=demo", "data.demo_rows=300", "data.twins=null"]
    return {
        "pretrained, batch 4": [*words, "prompt=auto", "data.batch_size=4"],
        "pretrained, batch 8": [*words, "prompt=auto", "data.batch_size=8"],
    }


def estimated(words: list[str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "ift.cli", "estimate", *words, "--json"], capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def trained(words: list[str], steps: int) -> tuple[float, float]:
    """Most bytes in memory, and seconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        subprocess.run(
            [
                sys.executable, "-m", "ift.commands.train", *words, f"output_dir={out}", f"trainer.max_steps={steps}",
                f"trainer.val_every={steps // 2}", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1",
                "samples.rows=0", "generate.max_new_tokens=2", "logger.wandb=false",
            ],
            capture_output=True, check=True,
        )  # fmt: skip
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        before, seconds = 0, []
        for line in lines:
            if "tokens_per_second" in line:
                seconds.append((line["tokens"] - before) / line["tokens_per_second"])
                before = line["tokens"]
        summary = json.loads((out / "summary.json").read_text())
        return float(summary["peak_memory_bytes"]), statistics.median(seconds[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="settings with this in their name")
    parser.add_argument("--model", metavar="FOLDER", help="a pretrained model, with a tokenizer of its own")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    settings = SETTINGS | (pretrained(arguments.model) if arguments.model else {})
    for name, words in settings.items():
        if arguments.only not in name:
            continue
        found = estimated(words)
        memory, seconds = trained(words, arguments.steps)
        share = found["share"]
        print(
            json.dumps(
                {
                    "setting": name,
                    "memory_estimated": round(share["memory"] / 1e6),
                    "memory_measured": round(memory / 1e6),
                    "memory_ratio": round(share["memory"] / memory, 3),
                    "seconds_estimated": round(share["seconds"], 4),
                    "seconds_measured": round(seconds, 4),
                    "seconds_ratio": round(share["seconds"] / seconds, 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
