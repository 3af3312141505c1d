"""What a verified checkpoint costs, against plain `safetensors.torch.save_file` of the same tensors, flushed to disk.

python benchmarks/checkpoint.py [--megabytes 512] [--rounds 15] [--folder .]

ours    what training does: state.json and the tensors in several files, each hashed while it is written, flushed,
        compared with memory, sealed by a manifest, renamed into place; the pointer; an older checkpoint removed
theirs  save_file into a new file, fsync, the file before removed

Rounds alternate, so that whatever else the machine does falls on both; the ratio is of the medians. Prints one line
of JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from ift.training.checkpoint import SealedCheckpointIO


def state(megabytes: int) -> dict[str, torch.Tensor]:
    """Weights, two moments of each and a step: as AdamW has them, in matrices of 4 MB."""
    matrices = max(1, megabytes // 12)
    return {
        f"{part}.{i}": torch.randn(1024, 1024) for part in ("weights", "exp_avg", "exp_avg_sq") for i in range(matrices)
    } | {f"step.{i}": torch.tensor(float(i)) for i in range(matrices)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=Path())
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-", dir=arguments.folder))
    tensors, files = state(arguments.megabytes), SealedCheckpointIO()
    try:
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for step in range(1, arguments.rounds + 3):
            start = time.perf_counter()
            checkpoint = {"state": tensors, "about": {"step": step}}
            files.save_checkpoint(checkpoint, folder / "ours" / f"step-{step:08}")
            assert files.failed is None, files.failed
            middle = time.perf_counter()
            (folder / "theirs").mkdir(exist_ok=True)
            save_file(tensors, folder / "theirs" / f"{step}.safetensors")
            with open(folder / "theirs" / f"{step}.safetensors", "rb") as file:
                os.fsync(file.fileno())
            (folder / "theirs" / f"{step - 2}.safetensors").unlink(missing_ok=True)
            end = time.perf_counter()
            if step > 2:  # from the third on, both remove a file
                seconds["ours"].append(middle - start)
                seconds["theirs"].append(end - middle)
    finally:
        shutil.rmtree(folder)
    ours, theirs = (statistics.median(seconds[name]) for name in ("ours", "theirs"))
    print(
        json.dumps(
            {
                "megabytes": sum(t.nbytes for t in tensors.values()) / 1e6,
                "rounds": arguments.rounds,
                "cores": os.cpu_count(),
                "ours_seconds": round(ours, 4),
                "theirs_seconds": round(theirs, 4),
                "ratio": round(ours / theirs, 3),
                "quartiles_of_ratios": [
                    round(q, 3)
                    for q in statistics.quantiles(
                        (a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True)), n=4
                    )
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
