"""`trainer.save_top_k`: more models than the best one, each a whole model folder under its step."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from ift.artifacts.model_folder import save_model_folder
from ift.errors import MachineError, WeightsError, refused_by_disk
from ift.model.gpt import GPT
from ift.sealed import read_manifest, remove_folder
from ift.training.callbacks import KeepBest
from ift.training.monitor import monitored
from ift.training.ranks import agree
from ift.training.sharded import the_first_writes


class KeepTop(Callback):
    """`best/step-000012`: the k best models of a run by the monitored number. `model/` is the best, whatever k is.

    The folders are all there is to know, so a run that goes on finds what it has kept. k = -1 keeps every one.
    """

    def __init__(
        self,
        folder: Path,
        best: KeepBest,
        *,
        k: int,
        fresh: bool,
    ):
        """best: what a model folder holds besides weights, and the monitor, are its. fresh: the run begins."""
        self.folder, self.best, self.k = folder, best, k
        self.fresh = fresh  # then what an earlier one left in the folder goes

    @rank_zero_only
    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if self.fresh:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.fresh = False

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        """Rank 0 knows what is in the folder."""
        score, step = monitored(trainer, self.best.monitor), trainer.global_step
        others = [other for path, other in self.kept().items() if path.name != _name(step)]
        is_one = math.isfinite(score) and (self.k < 0 or sum(other <= score for other in others) < self.k)
        if agree(trainer, trainer.is_global_zero and is_one):
            self._keep(trainer, module.model, score, step)

    def _keep(self, trainer: L.Trainer, model: GPT, score: float, step: int) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        about = {**self.best.about, "step": step, "val_loss": None if loss is None else float(loss), "score": score}
        path, best = self.folder / _name(step), self.best
        error = the_first_writes(
            trainer,
            model,
            lambda weights: save_model_folder(path, model, best.tokenizer, best.template, about, weights),
        )
        if agree(trainer, error is not None and not isinstance(error, OSError)):
            raise error or MachineError(f"{path}: the first process could not write the model (see what it said)")
        if isinstance(error, OSError):
            print(f"ift: {refused_by_disk(error, str(self.folder))}: training goes on", flush=True)
        if error is not None or not trainer.is_global_zero:
            return
        by_score = sorted(self.kept().items(), key=lambda item: item[1])
        for path, _ in by_score[self.k :] if self.k >= 0 else ():
            remove_folder(path)

    def kept(self) -> dict[Path, float]:
        """The model folders and their scores, of which less is better."""
        scores = {}
        for path in self.folder.glob("step-*"):
            if not re.fullmatch(r"step-\d+", path.name):  # of a write that was cut off
                continue
            try:
                scores[path] = float(read_manifest(path)["about"]["score"])
            except (WeightsError, KeyError, TypeError, ValueError):
                continue
        return scores


def _name(step: int) -> str:
    return f"step-{step:06d}"
