"""`dry_run=true`: what is supervised, seen by eye, and the batch that needs most memory, forward and backward."""

from __future__ import annotations

import time

from rich.console import Console

from ift.artifacts.machine import Device, peak_memory_bytes
from ift.data.datamodule import SFTDataModule
from ift.data.show import show_examples
from ift.text.tokenizers import Tokenizer
from ift.training.module import SFTModule
from ift.training.preflight import run_once


def dry_run(module: SFTModule, datamodule: SFTDataModule, tokenizer: Tokenizer, device: Device) -> None:
    console = Console()
    show_examples(console, datamodule.examples["train"], tokenizer)
    batch = datamodule.longest_batch()
    module.to(device.torch_device)
    started = time.perf_counter()
    mean, count = run_once(module, batch, device)
    seconds = time.perf_counter() - started
    console.print(
        f"the longest batch, {len(batch.rows)} rows of {batch.tokens} tokens, of which {batch.input_ids.numel()} are "
        f"computed: loss {mean:.3f} over {count} supervised tokens, {seconds:.2f} s forward and backward, "
        f"{peak_memory_bytes(device) / 1e9:.2f} GB at most ({device.accelerator}, {device.precision})",
        soft_wrap=True,
        highlight=False,
    )
    console.print("dry run: nothing was trained")
