"""What all contestants are given, and how they are timed. Needs numpy and torch alone: it runs in every environment.

A workload is a folder: rows.npz (token ids, which of them are supervised), plan.json (which rows make each step) and
model/ (fresh weights in the layout of Hugging Face, and the tokenizer). A job is one process of one contestant.

B batch, T time. A row of n ids is n positions with a target each: the last one's is the end-of-text.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

IGNORE_INDEX = -100


class Workload:
    def __init__(self, folder: Path):
        self.folder, self.model = folder, folder / "model"
        arrays = np.load(folder / "rows.npz")
        self._ids, self._supervised, self._starts = arrays["ids"], arrays["supervised"], arrays["starts"]
        self.ends: np.ndarray = arrays["ends"]  # (rows,) bool: the end of the response is a target
        self.plan: dict[str, Any] = json.loads((folder / "plan.json").read_text())
        self.end_of_text: int = self.plan["end_of_text"]

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) int32 and supervised (n,) bool."""
        part = slice(self._starts[i], self._starts[i + 1])
        return self._ids[part], self._supervised[part]

    def targets(self, i: int) -> np.ndarray:
        """(n,) int64: what each position has to say next, -100 where the loss must not look."""
        ids, supervised = self.row(i)
        after = np.append(ids[1:], self.end_of_text).astype(np.int64)
        return np.where(np.append(supervised[1:], self.ends[i]), after, IGNORE_INDEX)

    def whole(self, i: int) -> tuple[list[int], list[int]]:
        """Ids with the end-of-text and their labels, unshifted: what peers take that shift inside the model."""
        ids, _ = self.row(i)
        return [*ids.tolist(), self.end_of_text], [IGNORE_INDEX, *self.targets(i).tolist()]

    def padded(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Input ids and targets (B, T), padded on the right with end-of-text and -100."""
        length = max(len(self.row(i)[0]) for i in rows)
        ids = torch.full((len(rows), length), self.end_of_text)
        targets = torch.full_like(ids, IGNORE_INDEX)
        for b, i in enumerate(rows):
            row = self.row(i)[0]
            ids[b, : len(row)] = torch.from_numpy(row.astype(np.int64))
            targets[b, : len(row)] = torch.from_numpy(self.targets(i))
        return ids, targets

    def supervised(self, rows: list[int]) -> int:
        return sum(int((self.targets(i) != IGNORE_INDEX).sum()) for i in rows)

    def useful(self, rows: list[int]) -> int:
        return sum(len(self.row(i)[0]) for i in rows)


class Job:
    """One process: what it is to do, and the stopwatch that ends at each optimizer step."""

    def __init__(self) -> None:
        self.job: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
        self.workload = Workload(Path(self.job["workload"]))
        self.options: dict[str, Any] = self.job["options"]
        self.precision: str = self.job["precision"]
        self.optim: dict[str, Any] = self.workload.plan["optim"]
        self.ends = [float(self.job["started"])]  # of the process's start, then of each step
        self.losses: list[float] = []
        self.norms: list[float] = []
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    @property
    def steps(self) -> list[list[int]]:
        """Rows of each optimizer step of this round, the warm-up first."""
        order: str = self.options.get("order", "plain")
        steps: list[list[int]] = self.workload.plan["rounds"][self.job["round"]][order]
        return steps

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16")

    def step_done(self, loss: float | None = None, norm: float | None = None) -> None:
        """Called at the end of each optimizer step; loss and norm of its gradient may be given later, in order."""
        self.ends.append(time.monotonic())
        if loss is not None:
            self.losses.append(loss)
        if norm is not None:
            self.norms.append(norm)

    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        stored: dict[str, Any] = json.loads((self.workload.model / "config.json").read_text())
        return stored

    def prompts(self) -> Iterator[torch.Tensor]:
        """(1, T) ids of the prompts on which contestants must agree before they are timed."""
        for ids in self.workload.plan["prompts"]:
            yield torch.tensor([ids])

    def compare_logits(self, logits: Any) -> None:
        """Keep the logits (4, V) at the last position of each prompt, made by `logits((1, T)) -> (1, T, V)`; end."""
        with torch.no_grad():
            last = torch.stack([logits(ids)[0, -1].float() for ids in self.prompts()])
        np.save(self.job["logits"], last.numpy())
        say({})

    def finish(self, *, computed: list[int], **more: Any) -> None:
        """Print what was measured. computed: positions of each step that the model computed, padding included."""
        seconds = np.diff(self.ends).tolist()
        about = {"start_up": seconds[0], "seconds": seconds, "computed": computed, "peak_bytes": peak_bytes()}
        say({**about, "losses": self.losses, "norms": self.norms, **more})

    def questions(self) -> list[list[int]]:
        """Ids of the prompts that this job answers."""
        return [self.workload.plan["questions"][i] for i in self.options["prompts"]]

    def answer(self, answers: Callable[[int], list[list[int]]]) -> None:
        """Print the answers, without prompt and end, their seconds, and those of one token each, asked afterwards.

        answers: so many new tokens -> those of each prompt
        """
        began = time.monotonic()
        ids = answers(self.options["new_tokens"])
        seconds, memory, began = time.monotonic() - began, peak_bytes(), time.monotonic()
        answers(1)
        say({"ids": ids, "seconds": seconds, "first": time.monotonic() - began, "peak_bytes": memory})


def say(result: dict[str, Any]) -> None:
    """The one line of a contestant that the driver reads."""
    print("\nRESULT " + json.dumps(result), flush=True)


def peak_bytes() -> int:
    """Most resident memory so far, of this program alone: ru_maxrss would count what the parent had at the fork."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay on matrices (embeddings included), none on biases and norms: as ift and transformers have it."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.dim() >= 2]
    others = [p for p in parameters if p.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
