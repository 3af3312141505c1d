"""Two short ways: `dry_run=true` shows what would be trained, `trainer.fast_dev_run` goes all the way; none is kept.

A dry run shows what is supervised and runs the batch that needs most memory, forward and backward. A fast development
run (Lightning's word) takes N steps, validates, tests, answers and writes its pages, and then removes all of it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console

from ift.artifacts.machine import Device, peak_memory_bytes
from ift.data.datamodule import SFTDataModule
from ift.data.show import show_examples
from ift.launch import is_other_rank
from ift.run import RunFolder, read_json
from ift.settings import Settings
from ift.text.tokenizers import Tokenizer
from ift.training.module import SFTModule
from ift.training.preflight import run_once


def dry_run(module: SFTModule, datamodule: SFTDataModule, tokenizer: Tokenizer, device: Device, *, end: int) -> None:
    """end: the token that is learnt after a whole response."""
    console = Console()
    show_examples(console, datamodule.examples["train"], tokenizer, end=end)
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


def few_steps(settings: Settings) -> Settings:
    """What trainer.fast_dev_run=N means for other settings: N steps, N batches of each split, no logger."""
    n = settings.trainer.fast_dev_run
    trainer = replace(
        settings.trainer,
        max_steps=n,
        val_every=n,
        save_every=None,
        save_top_k=1,
        limit_val_batches=n,
        limit_test_batches=n,
        early_stopping=replace(settings.trainer.early_stopping, patience=None),
    )
    return replace(
        settings, trainer=trainer, logger=replace(settings.logger, wandb=False, tensorboard=False, csv=False)
    )


@contextmanager
def nothing_kept(run: RunFolder) -> Iterator[RunFolder]:
    """A folder in the run's folder for a fast development run, which is removed at its end."""
    passing = RunFolder(run.path / "fast_dev_run")
    if not is_other_rank():
        shutil.rmtree(passing.path, ignore_errors=True)  # of one that was killed
        passing.path.mkdir()
    try:
        yield passing
        if not is_other_rank():
            print(_outcome(passing), flush=True)
    finally:
        if not is_other_rank():
            shutil.rmtree(passing.path, ignore_errors=True)


def _outcome(run: RunFolder) -> str:
    summary = read_json(run.summary)
    losses = ", ".join(
        f"{name} loss {summary[key]:.3f}"
        for name, key in (("validation", "val_loss"), ("test", "test_loss"))
        if summary.get(key) is not None
    )
    return (
        f"fast_dev_run: {summary['steps']} steps{', ' if losses else ''}{losses}, {summary['responses']} answers; "
        "nothing was kept (leave out trainer.fast_dev_run to train)"
    )
