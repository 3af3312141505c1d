"""`python train.py`, in this process, on the rows and weights of benchmarks/whole_command.py."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    options: dict[str, Any] = job["options"]
    began = float(job["started"])
    sys.argv = [
        "train.py", f"output_dir={options['output']}", "model=pretrained", f"model.pretrained={options['model']}",
        "prompt=alpaca", "data=json", f"data.path={options['train']}", f"data.val_path={options['val']}",
        f"data.batch_size={options['batch']}", f"trainer.max_epochs={options['epochs']}", "data.twins=null",
        # as Trainer has them
        "optim.schedule=linear", "optim.warmup=0", "optim.min_lr=0", "optim.weight_decay=0", "optim.beta2=0.999",
        f"trainer.val_every={options['every']}", f"optim.lr={options['lr']}", "trainer.accelerator=cpu",
        f"trainer.precision={job['precision']}", "trainer.early_stopping.patience=null", "logger=none",
        f"data.cache_dir={options['output']}.cache", *options.get("overrides", []),
    ]  # fmt: skip
    from ift.commands.train import command

    code = command()
    if code:
        sys.exit(code)
    summary = json.loads((Path(options["output"]) / "summary.json").read_text())
    print("RESULT", json.dumps(told(summary, time.monotonic() - began)))


def told(summary: dict[str, Any], whole: float) -> dict[str, Any]:
    parts = {key: value for key, value in summary.items() if key.endswith("_seconds")}
    return {
        "val_loss": summary["val_loss"],
        "first_step": summary["start_seconds"],
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "inside": whole,
        **parts,
    }


if __name__ == "__main__":
    main()
