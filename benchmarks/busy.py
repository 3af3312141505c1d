"""Training beside another program: what a step takes on an idle machine, and beside one busy process.

python benchmarks/busy.py                        three rounds of the demo's model and of one with GPT-2 small's blocks
python benchmarks/busy.py --rounds 1 --models demo      a trial

idle        nothing else runs: close everything else, and say how idle the machine was (the first line prints it)
busy        beside one process that never waits
libraries   threads as torch and OpenMP have them: OMP_NUM_THREADS at all processors, their own spinning
ift         as train.py comes

Each is the whole of train.py in a fresh process; seconds a step are the median over its steps, by `tokens` and
`tokens_per_second` of metrics.jsonl, without the first. A round is all of them in turn. Ratios are made within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from side_by_side import environment

HERE = Path(__file__).parents[1]
ALL = (
    "logger=none",
    "samples.rows=0",
    "trainer.val_every=100000",
    "trainer.accelerator=cpu",
    "generate.max_new_tokens=1",
)
MODELS = {
    "demo": ("trainer.max_steps=80", "data.demo_rows=2000"),
    "256": ("trainer.max_steps=40", "model.n_embd=256", "model.n_head=4", "model.n_layer=4"),
    "768": (
        *("trainer.max_steps=5", "model.n_embd=768", "model.n_head=12", "model.n_layer=12", "trainer.precision=fp32"),
        *("data.demo_rows=400",),
    ),
}  # fmt: skip
SPIN = "while True: pass"


def ways() -> dict[str, dict[str, str]]:
    """Variables of each contestant. A variable of LLVM's that GNU's does not read says that the user has decided."""
    return {"ift": {}, "libraries": {"OMP_NUM_THREADS": str(os.cpu_count()), "KMP_BLOCKTIME": "200"}}


def step_seconds(words: tuple[str, ...], variables: dict[str, str]) -> float:
    """Median seconds of a training step. Raises SystemExit with what was said where it fails."""
    clean = {k: v for k, v in environment(own=True).items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    clean |= {"PYTHONPATH": str(HERE / "src"), **variables}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "train.py"), f"output_dir={folder}/run", *ALL, *words]
        done = subprocess.run(command, env=clean, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        lines = [json.loads(line) for line in Path(folder, "run/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "tokens_per_second" in line]
    return statistics.median((b["tokens"] - a["tokens"]) / b["tokens_per_second"] for a, b in pairwise(steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["demo", "768"])
    arguments = parser.parse_args()
    print(f"load of the last minute {os.getloadavg()[0]:.2f}, {os.cpu_count()} processors", flush=True)
    for model in arguments.models:
        found: dict[tuple[str, str], list[float]] = {}
        for number in range(arguments.rounds):
            for state in ("idle", "busy"):
                names = list(ways()) if number % 2 == 0 else list(reversed(ways()))
                for name in names:
                    other = subprocess.Popen([sys.executable, "-c", SPIN]) if state == "busy" else None
                    try:
                        seconds = step_seconds(MODELS[model], ways()[name])
                    finally:
                        if other:
                            other.kill()
                            other.wait()
                    found.setdefault((name, state), []).append(seconds)
                    print(f"{model:6} {name:10} {state:5} {seconds * 1e3:9.1f} ms a step", flush=True)

        def ratio(a: tuple[str, str], b: tuple[str, str], found: dict = found) -> str:
            each = sorted(x / y for x, y in zip(found[a], found[b], strict=True))
            return f"{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})"

        print(f"{model:6} idle, ift over libraries   {ratio(('ift', 'idle'), ('libraries', 'idle'))}")
        for name in ways():
            print(f"{model:6} {name:10} busy over idle  {ratio((name, 'busy'), (name, 'idle'))}")


if __name__ == "__main__":
    main()
