"""Before step 1: does a checkpoint fit on the disk, and the longest batch into memory?"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from ift.artifacts.machine import Device
from ift.data.batches import Batch
from ift.data.datamodule import SFTDataModule
from ift.errors import MachineError
from ift.training.module import SFTModule
from ift.training.optimizers import state_bytes


def refuse_small_disk(folder: Path, module: SFTModule) -> None:
    """Raises MachineError where not even one checkpoint and one model folder fit: now, not at the first save."""
    needed, free = bytes_on_disk(module), shutil.disk_usage(folder).free
    if free < needed:
        raise MachineError(
            f"{folder}: {free / 1e9:.1f} GB free, a checkpoint and the model take {needed / 1e9:.1f} GB "
            "(choose another output_dir)"
        )


def bytes_on_disk(module: SFTModule) -> int:
    """Of a checkpoint (all weights, a tied one once; the optimizer) and a model folder; without an adapter's base."""
    model = module.model
    if model.low_rank is not None:
        return state_bytes(model, module.optim) + 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    weights = sum({id(tensor): tensor.nbytes for tensor in model.state_dict(keep_vars=True).values()}.values())
    return weights + state_bytes(model, module.optim) + sum(p.nbytes for p in model.parameters())


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)  # a GPU's, and a CPU's


def run_once(module: SFTModule, batch: Batch, device: Device) -> tuple[float, int]:
    """A batch forward and backward as training does it; its mean loss and supervised tokens. Gradients are left."""
    loss, weight, _ = module.objective(module.model, module.transfer_batch_to_device(batch, device.torch_device, 0))
    torch.autograd.backward(loss / weight)
    return (loss / weight).item(), weight


def fits(module: SFTModule, batch: Batch, device: Device) -> bool:
    """Whether a batch can be trained on beside the optimizer's state; leaves no gradient and no random number used."""
    states: list[torch.Tensor] = []
    devices = [device.torch_device] if device.accelerator == "gpu" else []
    try:
        with torch.random.fork_rng(devices=devices):
            kept = state_bytes(module.model, module.optim)
            states = [torch.empty(kept, dtype=torch.uint8, device=device.torch_device)]  # the optimizer's
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
