"""A short run on one or two processes: python two_ranks.py FOLDER DEVICES BATCH_SIZE ACCUMULATE"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file

from ift.data.contract.examples import Example
from ift.data.datamodule import SFTDataModule
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.settings import OptimSettings
from ift.training.module import SFTModule

END = 49
STEPS = 6


class Losses(Callback):
    def __init__(self):
        self.train: list[float] = []
        self.val: list[float] = []

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step > len(self.train):
            self.train.append(module.last_loss)

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


def fit(result: Path, *, devices: int, batch_size: int, accumulate: int) -> None:
    """Two epochs of 17 rows, 8 rows a step and the last row alone; 5 rows validate. Rank 0 writes what it saw."""
    torch.manual_seed(0)
    optim = OptimSettings(1e-3, 0.1, "matrices", 0.9, 0.999, "cosine", warmup=0.2, min_lr=0.1, clip=0.5)
    module = SFTModule(GPT(GPTConfig(50, 16, n_layer=2, n_head=2, n_embd=16)), optim=optim, total_steps=STEPS)
    settings = SimpleNamespace(
        batch_size=batch_size, batching="unpadded", share_prefix=True, pad_to=None, drop_last=False, num_workers=0
    )
    examples = {"train": rows(17, seed=1), "val": rows(5, seed=2), "test": []}
    data = SFTDataModule(examples, settings, end_of_text=END, accumulate=accumulate, seed=11)
    losses = Losses()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=-1,
        max_steps=STEPS,
        accumulate_grad_batches=accumulate,
        val_check_interval=3 * accumulate,
        check_val_every_n_epoch=None,
        callbacks=[losses],
        logger=False,
        use_distributed_sampler=False,
        inference_mode=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data)
    if trainer.is_global_zero:
        seen = {"train": losses.train, "val": losses.val, "tokens": module.tokens_seen, "world": trainer.world_size}
        (result / "seen.json").write_text(json.dumps(seen))
        save_file({name: value.clone() for name, value in module.model.state_dict().items()}, result / "weights")


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:]
    devices, batch_size, accumulate = map(int, numbers)
    fit(Path(folder), devices=devices, batch_size=batch_size, accumulate=accumulate)
