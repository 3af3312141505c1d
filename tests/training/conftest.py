"""A tiny model, tiny rows and a short training run, as functions that tests call."""

from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ift.data.contract.examples import Example
from ift.data.datamodule import SFTDataModule
from ift.settings import OptimSettings
from ift.training.module import SFTModule
from ift.training.trainer import quiet_lightning

CONTEXT, END = 16, 49  # of make_model's


@pytest.fixture(autouse=True, scope="session")
def quiet():
    quiet_lightning()


@pytest.fixture
def make_examples():
    def make(rows: int, *, seed: int = 0) -> list[Example]:
        """Rows of 3 to 16 tokens, of which the first one to all but one are prompt; every fourth has no end."""
        random = np.random.default_rng(seed)
        examples = []
        for row in range(rows):
            length = int(random.integers(3, CONTEXT + 1))
            prompt = int(random.integers(1, length))
            ids = random.integers(0, END, size=length).astype(np.int32)
            examples.append(Example(ids, np.arange(length) >= prompt, ends=row % 4 != 3, row=row))
        return examples

    return make


@pytest.fixture
def make_optim():
    def make(**changes) -> OptimSettings:
        """A constant rate, nothing clipped."""
        values = {
            "name": "adamw", "lr": 1e-3, "weight_decay": 0.1, "decay": "matrices",
            "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "momentum": None,
            "schedule": "constant", "warmup": 0.0, "warmup_steps": None, "cooldown": None, "min_lr": 0.0, "clip": None,
            "label_smoothing": 0.0, "neftune_alpha": None,
        }  # fmt: skip
        return OptimSettings(**values | changes)

    return make


class Steps(Callback):
    """What each optimizer step was: its loss, and its gradients as the optimizer saw them."""

    def __init__(self):
        self.losses: list[float] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step > len(self.losses):
            self.losses.append(module.last_loss)
            self.gradients.append({name: p.grad.clone() for name, p in module.model.named_parameters()})


@pytest.fixture
def make_data():
    def make(
        train,
        val=(),
        test=(),
        *,
        batch_size=8,
        accumulate=1,
        end_of_text=END,
        batching="unpadded",
        share_prefix=True,
        dropout=0.0,
        noise=None,
    ) -> SFTDataModule:
        settings = SimpleNamespace(
            batch_size=batch_size, batching=batching, share_prefix=share_prefix, pad_to=None, drop_last=False,
            num_workers=0,
        )  # fmt: skip
        examples = {"train": list(train), "val": list(val), "test": list(test)}
        return SFTDataModule(
            examples, settings, end_of_text=end_of_text, accumulate=accumulate, dropout=dropout, noise=noise, seed=11
        )

    return make


@pytest.fixture
def make_trainer():
    def make(*, callbacks=(), **options) -> L.Trainer:
        """As train.py makes it, without what a person looks at."""
        defaults = {
            "accelerator": "cpu", "devices": 1, "max_epochs": -1, "check_val_every_n_epoch": None, "logger": False,
            "use_distributed_sampler": False, "inference_mode": False, "num_sanity_val_steps": 0,
            "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
        }  # fmt: skip
        return L.Trainer(callbacks=list(callbacks), **defaults | options)

    return make


@pytest.fixture
def fit(make_model, make_optim, make_data, make_trainer):
    def fit(
        examples, *, steps: int, batch_size=8, accumulate=1, end_of_text=END, batching="unpadded", module=None, **optim
    ):
        """Train; return the module and what its steps were."""
        module = module or SFTModule(make_model(), optim=make_optim(**optim), total_steps=steps)
        seen = Steps()
        trainer = make_trainer(max_steps=steps, accumulate_grad_batches=accumulate, callbacks=[seen])
        data = make_data(
            examples, batch_size=batch_size, accumulate=accumulate, end_of_text=end_of_text, batching=batching
        )
        trainer.fit(module, data)
        return module, seen

    return fit
