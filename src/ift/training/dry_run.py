"""`dry_run=true`: what is supervised, seen by eye, and the batch that needs most memory, forward and backward."""

from __future__ import annotations

import time

import torch
from rich.console import Console

from ift.data.batches import Batch
from ift.data.module import SFTDataModule
from ift.data.show import show_examples
from ift.data.tokenizer import Tokenizer
from ift.training.machine import Device, peak_memory_bytes
from ift.training.module import SFTModule


def dry_run(module: SFTModule, datamodule: SFTDataModule, tokenizer: Tokenizer, device: Device) -> None:
    console = Console()
    show_examples(console, datamodule.examples["train"], tokenizer)
    batch = datamodule.longest_batch()
    ids, targets = (tensor.to(device.torch_device) for tensor in batch[:2])
    module.to(device.torch_device)
    started = time.perf_counter()
    with torch.autocast(device.torch_device.type, dtype=device.dtype, enabled=device.dtype != torch.float32):
        loss, count = module.loss_sum(Batch(ids, targets, batch.rows, batch.tokens))
    torch.autograd.backward(loss / count)
    mean, seconds = (loss / count).item(), time.perf_counter() - started
    console.print(
        f"the longest batch, {len(ids)} rows of up to {ids.shape[1]} tokens: loss {mean:.3f} over {int(count)} "
        f"supervised tokens, {seconds:.2f} s forward and backward, "
        f"{peak_memory_bytes(device.accelerator) / 1e9:.2f} GB at most ({device.accelerator}, {device.precision})",
        soft_wrap=True,
        highlight=False,
    )
    console.print("dry run: nothing was trained")
