"""What goes wrong in long runs, found early or named: memory on the longest batch, a disk too small, loss spikes."""

from __future__ import annotations

import math
import shutil
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from ift.artifacts.machine import Device
from ift.data.batches import Batch
from ift.data.datamodule import SFTDataModule
from ift.errors import MachineError
from ift.training.loggers import MetricsFile
from ift.training.module import SFTModule
from ift.training.ranks import gather_rows

WINDOW, FEWEST, FAR = 128, 32, 6.0  # losses looked back on, at least so many, and standard deviations that are a spike
BYTES_A_PARAMETER = 12  # of a checkpoint: the weight and AdamW's two moments, fp32


def refuse_small_disk(folder: Path, model: nn.Module) -> None:
    """Raises MachineError where not even one checkpoint and one model folder fit: now, not at the first save."""
    parameters = sum(p.numel() for p in model.parameters())
    needed, free = parameters * (BYTES_A_PARAMETER + 4), shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder}: {free / 1e9:.1f} GB free, a checkpoint and the model take {needed / 1e9:.1f} GB "
            "(choose another output_dir)"
        )


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)  # a GPU's, and a CPU's


def run_once(module: SFTModule, batch: Batch, device: Device) -> tuple[float, int]:
    """A batch forward and backward as training does it; its mean loss and supervised tokens. Gradients are left."""
    loss, count = module.loss_sum(module.transfer_batch_to_device(batch, device.torch_device, 0))
    torch.autograd.backward(loss / count)
    return (loss / count).item(), count


def fits(module: SFTModule, batch: Batch, device: Device) -> bool:
    """Whether a batch can be trained on beside the optimizer's state; leaves no gradient and no random number used."""
    states: list[torch.Tensor] = []
    devices = [torch.cuda.current_device()] if device.accelerator == "gpu" else []
    try:
        with torch.random.fork_rng(devices=devices):
            states = [torch.empty_like(p) for p in module.model.parameters() for _ in range(2)]  # AdamW's moments
            run_once(module, batch, device)
        return True
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        del states
        module.zero_grad(set_to_none=True)
        if devices:
            torch.cuda.empty_cache()


def try_longest_batch(module: SFTModule, datamodule: SFTDataModule, device: Device) -> None:
    """Run the batch that needs most memory before step 1. Raises MachineError with settings that fit and train alike.

    Only on a GPU: on a CPU the system ends a process that takes too much, and there is nothing to catch.
    """
    if device.accelerator != "gpu":
        return
    module.to(device.torch_device).train()
    refuse_large_batch(module, datamodule, device)


def refuse_large_batch(module: SFTModule, datamodule: SFTDataModule, device: Device) -> None:
    if fits(module, datamodule.longest_batch(), device):
        return
    rows, accumulate = datamodule.batch_size, datamodule.accumulate
    for fewer in (n for n in range(rows - 1, 0, -1) if rows * accumulate % n == 0):
        if fits(module, datamodule.longest_batch(fewer), device):
            raise MachineError(
                f"data.batch_size={rows}: the longest rows do not fit into memory "
                f"(data.batch_size={fewer} trainer.accumulate={rows * accumulate // fewer} is the same step and fits)"
            )
    raise MachineError("data.batch_size=1: the longest row does not fit into memory (lower data.max_length)")


class Spikes(Callback):
    """A step whose loss lies far above those before it is printed and noted with its rows: bad data shows so."""

    def __init__(self, metrics: MetricsFile):
        self.metrics = metrics
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses, self.step = deque(state["losses"], maxlen=WINDOW), state["step"]

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            return
        self.step = trainer.global_step
        far = deviations(module.last_loss, self.losses)
        if math.isfinite(module.last_loss):
            self.losses.append(module.last_loss)
        if far < FAR:
            return
        rows = gather_rows(trainer, module.last_rows)  # every rank has the same loss, so all come here
        self.metrics.log_metrics({"loss_deviations": far, "rows": rows}, step=self.step)
        if trainer.is_global_zero:
            shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
            print(
                f"ift: step {self.step}: loss {module.last_loss:.3f} is {far:.0f} standard deviations above the last "
                f"{len(self.losses) - 1} (rows {shown})",
                flush=True,
            )


def deviations(loss: float, before: deque[float]) -> float:
    """How many standard deviations a loss lies above those before it; 0 while they are too few to tell."""
    if len(before) < FEWEST or not math.isfinite(loss):
        return 0.0
    spread = statistics.stdev(before)
    return (loss - statistics.fmean(before)) / spread if spread > 0 else 0.0
