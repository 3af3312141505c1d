"""A short run on one or two processes, with all that train.py puts into it.

python two_ranks.py FOLDER DEVICES BATCH_SIZE ACCUMULATE [full]

full: on rank 0 the disk refuses the model folder of every validation after the one of the untuned model
"""

import errno
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tiktoken
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file

from ift.artifacts.machine import Device
from ift.data.contract.examples import Example
from ift.data.datamodule import SFTDataModule
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.settings import OptimSettings
from ift.text.templates import Segment, Template
from ift.text.tokenizers import END_OF_TEXT, Tokenizer
from ift.training import callbacks
from ift.training.callbacks import KeepBest, Samples, ShowProgress, ValidateAtTheEnd
from ift.training.clock import Clock
from ift.training.metrics_file import MetricsFile
from ift.training.module import SFTModule
from ift.training.resume import Checkpoints
from ift.training.spikes import Spikes
from ift.training.trainer import early_stopping, fit, make_trainer, quiet_lightning
from ift.training.writer import Writer

sys.path.insert(0, str(Path(__file__).parents[2]))  # Lightning starts the other rank as a script
from tests.training.options import trainer_options

END = 49
STEPS, AN_EPOCH = 6, 3
TEMPLATE = Template("plain", (Segment("{instruction}\n"), Segment("{output}", supervised=True)))


class SeenByThisRank(Callback):
    """Beside the product's own: what each rank has at the end of a validation."""

    def __init__(self):
        self.val: list[float] = []

    def on_validation_end(self, trainer, module):
        self.val.append(trainer.callback_metrics["val/loss"].item())


def rows(number: int, seed: int) -> list[Example]:
    random = np.random.default_rng(seed)
    examples = []
    for row in range(number):
        length = int(random.integers(3, 17))
        supervised = np.arange(length) >= int(random.integers(1, length))
        examples.append(Example(random.integers(0, END, size=length).astype(np.int32), supervised, row=row))
    return examples


def tokenizer() -> Tokenizer:
    ranks = {bytes([byte]): byte for byte in range(256)}
    return Tokenizer(tiktoken.Encoding("b", pat_str=r"(?s).", mergeable_ranks=ranks, special_tokens={END_OF_TEXT: 256}))


def refuse_writes(from_call: int) -> None:
    """save_model_folder fails with "no space left" from this call on (in this process)."""
    real, calls = callbacks.save_model_folder, []

    def save(*args):
        calls.append(1)
        if len(calls) >= from_call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    callbacks.save_model_folder = save


def run(result: Path, *, devices: int, batch_size: int, accumulate: int, full: bool = False) -> None:
    """Two epochs of 17 rows, 8 rows a step and the last row alone; 5 rows validate. Each rank writes what it saw."""
    quiet_lightning()
    torch.manual_seed(0)
    options = trainer_options(
        max_epochs=2, accumulate=accumulate, strategy="ddp" if devices > 1 else "auto", val_every=3, patience=3
    )
    optim = OptimSettings(
        name="adamw", lr=1e-3, weight_decay=0.1, decay="matrices", beta1=0.9, beta2=0.999, eps=1e-8, momentum=None,
        schedule="cosine", warmup=0.2, warmup_steps=None, cooldown=None, min_lr=0.1, clip=0.5,
        label_smoothing=0.0, neftune_alpha=None,
    )  # fmt: skip
    module = SFTModule(GPT(GPTConfig(257, 16, n_layer=2, n_head=2, n_embd=16)), optim=optim, total_steps=STEPS)
    settings = SimpleNamespace(
        batch_size=batch_size, batching="unpadded", share_prefix=True, pad_to=None, drop_last=False, num_workers=0
    )
    examples = {"train": rows(17, seed=1), "val": rows(5, seed=2), "test": []}
    data = SFTDataModule(examples, settings, end_of_text=256, accumulate=accumulate, seed=11)
    metrics, seen = MetricsFile(result / "metrics.jsonl"), SeenByThisRank()
    writer = Writer(Clock())
    best = KeepBest(result / "model", tokenizer(), TEMPLATE, writer=writer)
    checkpoints = Checkpoints(
        result / "checkpoints", metrics,
        about={"data": "abc"}, steps=STEPS, steps_per_epoch=AN_EPOCH, val_every=3, save_every=None, writer=writer,
    )  # fmt: skip
    samples = Samples(result / "samples.jsonl", lambda model: [{"response": "yes"}])
    own = [best, samples, ShowProgress(STEPS), early_stopping(options.early_stopping), ValidateAtTheEnd()]
    trainer = make_trainer(
        options,
        Device("cpu", "fp32", count=devices),
        steps=STEPS,
        loggers=[metrics],
        callbacks=[*own, Spikes(metrics), checkpoints, seen, writer.clock],
    )
    if full and trainer.is_global_zero:
        refuse_writes(from_call=2)
    try:
        with writer:
            fit(trainer, module, data, None)
    finally:
        metrics.save()
        about = {"val": seen.val, "best": [best.best_loss, best.best_step], "world": trainer.world_size}
        (result / f"rank-{trainer.global_rank}.json").write_text(json.dumps({**about, "tokens": module.tokens_seen}))
    if trainer.is_global_zero:
        save_file({name: value.clone() for name, value in module.model.state_dict().items()}, result / "weights")


if __name__ == "__main__":
    folder, devices, batch_size, accumulate, *full = sys.argv[1:]
    run(Path(folder), devices=int(devices), batch_size=int(batch_size), accumulate=int(accumulate), full=bool(full))
