"""`dry_run=true`: what is supervised, seen by eye, and the batch that needs most memory, forward and backward."""

from __future__ import annotations

import time
from itertools import groupby

import torch
from rich.console import Console
from rich.text import Text

from ift.data.batches import Batch
from ift.data.examples import Example
from ift.data.module import SFTDataModule
from ift.data.tokenizer import Tokenizer
from ift.training.machine import Device, peak_memory_bytes
from ift.training.module import SFTModule

SHOWN = 3  # rows


def dry_run(module: SFTModule, datamodule: SFTDataModule, tokenizer: Tokenizer, device: Device) -> None:
    console = Console()
    console.print(
        "\nafter [green]▸[/] text is supervised; [green]⏎[/] ends a response and is learnt; ✂ is a cut, no end learnt\n"
    )
    for example in datamodule.examples["train"][:SHOWN]:
        console.print(show_example(example, tokenizer), soft_wrap=True)
        console.print(f"[dim]{example.tokens} tokens, {example.targets} with a loss[/]\n")
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


def show_example(example: Example, tokenizer: Tokenizer) -> Text:
    """The decoded row, green where the loss may ask for a token, dim elsewhere."""
    text = Text()
    marked = zip(example.supervised.tolist(), example.ids.tolist(), strict=True)
    for supervised, tokens in groupby(marked, key=lambda pair: pair[0]):
        shown = tokenizer.decode([token for _, token in tokens])
        text.append("▸" + shown if supervised else shown, style="green" if supervised else "dim")
    text.append("⏎" if example.ends else "✂", style="bold green" if example.ends else "bold red")
    return text
