"""Short trainings, one after the other in the same processes: python sharded_runs.py FOLDER

FOLDER/cases.json: a list of cases, the arguments of `train` by name. Each leaves FOLDER/NAME/, with what each rank saw.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))  # Lightning starts the other rank as a script
from ift.artifacts.machine import Device
from ift.artifacts.weights import build_model, inspect_folder, save_weights, without_blocks
from ift.data.contract.examples import Example
from ift.data.datamodule import SFTDataModule
from ift.model.adapters import adapted, hold_base_in
from ift.model.config import GPTConfig, Rope
from ift.model.gpt import GPT
from ift.model.linear import compute_in
from ift.model.low_rank import LowRank, chosen
from ift.model.nf4 import in_four_bits
from ift.model.slices import local, whole
from ift.sealed import newest
from ift.settings import OptimSettings
from ift.training import sharded_files
from ift.training.blocks import set_up_blocks
from ift.training.callbacks import ValidateAtTheEnd
from ift.training.checkpoint import write_tensors
from ift.training.metrics_file import MetricsFile
from ift.training.module import SFTModule
from ift.training.resume import Checkpoints
from ift.training.sharded import give_slices_back
from ift.training.trainer import make_trainer, quiet_lightning
from tests.training.options import trainer_options

VOCABULARY, CONTEXT, END, ROWS = 50, 16, 49, 21  # steps of 12 rows: an epoch is two, the second of 9
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {
        "kv_heads": 1, "biases": (), "gated": True, "activation": "silu", "norm": "rms",
        "learned_positions": False, "ropes": (Rope(10000.0, 8),), "rope_of": (0, 0), "n_inner": 20, "family": "llama",
    },
}  # fmt: skip

LLAMA = {  # the same in its own config.json
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 20,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "attention_bias": False, "mlp_bias": False,
}  # fmt: skip


def rows(number: int, seed: int) -> list[Example]:
    draw = np.random.default_rng(seed)
    examples = []
    for row in range(number):
        length = int(draw.integers(3, CONTEXT + 1))
        supervised = np.arange(length) >= int(draw.integers(1, length))
        examples.append(Example(draw.integers(0, END, size=length).astype(np.int32), supervised, row=row))
    return examples


class SeenRows(list[int]):
    """The rows that this rank trained on, in order."""

    def __call__(self, step: int, loss: float, rows: list[int]) -> None:
        self.extend(rows)


def refuse(checkpoints: Checkpoints, steps: range) -> None:
    """The disk of this rank is full in these steps."""

    def write(*args: Any) -> str:
        if checkpoints.step in steps:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_tensors(*args)

    sharded_files.write_tensors = write


def sizes(shape: str, *, tied: bool = True, dropout: float = 0.0) -> GPTConfig:
    return GPTConfig(
        VOCABULARY, CONTEXT, n_layer=2, n_head=2, n_embd=16, tie_weights=tied, dropout=dropout, **SHAPES[shape]
    )


def publish(folder: Path, shape: str, *, tied: bool = True) -> str:
    """A base, as others publish theirs."""
    folder.mkdir()
    torch.manual_seed(3)
    config = sizes(shape, tied=tied)
    source = json.dumps(LLAMA) if shape == "llama" else config.source
    save_weights(GPT(replace(config, source=source)), folder, end_of_text=END)
    return str(folder)


def held(model: GPT) -> int:
    """Bytes that this rank has of all weights, but for what is on every rank: numbers of each matrix in four bits."""
    pieces = (layer.piece(number)[:3] for _, layer in in_four_bits(model) for number in range(layer.pieces))
    tensors = {id(tensor): local(tensor) for tensor in (*model.parameters(), *chain(*pieces))}
    return sum(tensor.nbytes for tensor in tensors.values())


def train(
    folder: Path,
    *,
    devices: int,
    strategy: str,
    batch_size: int,
    accumulate: int,
    steps: int = 10,
    stop_at: int | None = None,
    shape: str = "gpt2",
    tied: bool = True,
    batching: str = "unpadded",
    dtype: str = "float32",
    dropout: float = 0.0,
    freeze: bool = False,
    checkpointing: bool = False,
    optim: str = "adamw",
    layer_decay: float | None = None,
    shard_size: int | None = None,
    sum_every_batch: bool = False,
    pretrained: str | None = None,
    adapter: str | None = None,
    full: list[int] | None = None,
) -> dict[str, Any]:
    """Begin a run, or let the one in the folder go on.

    stop_at: the step after which it ends, as after a kill
    adapter: lora, dora or qlora, and rows of two tokens
    full: a rank, and the first and last step of those in which its disk takes nothing
    """
    folder.mkdir(exist_ok=True)
    point = newest(folder / "checkpoints", mend=False)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(7 if point else 0)
    config = sizes(shape, tied=tied, dropout=dropout)
    weights = inspect_folder(Path(pretrained)) if pretrained else None
    sharded, four_bits = strategy == "fsdp", adapter == "qlora"
    model = build_model(config, weights, four_bits=four_bits, sharded=sharded)
    if adapter:
        ends = build_model(without_blocks(config), weights) if weights and sharded else None
        low_rank = LowRank("base", chosen("all", None, config), 4, 8.0, dora=adapter == "dora", tokens=(3, 7))
        adapted(model, replace(low_rank, four_bits=four_bits), ends)
        hold_base_in(model, getattr(torch, dtype))
    compute_in(model, getattr(torch, dtype))
    if freeze:
        model.h[0].requires_grad_(False)
    settings = {"activation_checkpointing": checkpointing, "compile": False}
    set_up_blocks(model, SimpleNamespace(**settings))
    betas = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "momentum": 0.9 if optim == "sgd" else None}
    module = SFTModule(
        model, total_steps=steps,
        optim=OptimSettings(
            name=optim, lr=1e-2, weight_decay=0.1, decay="matrices", **betas, schedule="cosine", warmup=0.2,
            warmup_steps=None, cooldown=None, min_lr=0.1, clip=0.5, label_smoothing=0.0, neftune_alpha=None,
            layer_decay=layer_decay,
        ),
    )  # fmt: skip
    seen = SeenRows()
    module.step_listeners.append(seen)
    options = {"batching": batching, "share_prefix": not dropout, "pad_to": None, "drop_last": False, "num_workers": 0}
    data = SFTDataModule(
        {"train": rows(ROWS, seed=1), "val": rows(5, seed=2), "test": []},
        SimpleNamespace(batch_size=batch_size, **options), end_of_text=END, accumulate=accumulate, seed=11,
        dropout=dropout,
    )  # fmt: skip
    metrics = MetricsFile(folder / "metrics.jsonl")
    trainer_settings = trainer_options(
        max_epochs=100, accumulate=accumulate, val_every=4, strategy=strategy, shard_size=shard_size,
        sum_every_batch=sum_every_batch,
    )  # fmt: skip
    checkpoints = Checkpoints(
        folder / "checkpoints", metrics, about={"data": "abc"}, steps=steps,
        steps_per_epoch=data.steps_per_epoch(devices), val_every=4, save_every=1,
    )  # fmt: skip
    trainer = make_trainer(
        trainer_settings, Device("cpu", "fp32", count=devices), steps=stop_at or steps, loggers=[metrics],
        callbacks=[ValidateAtTheEnd(), checkpoints], weights=weights,
    )  # fmt: skip
    if full and trainer.global_rank == full[0]:
        refuse(checkpoints, range(full[1], full[2] + 1))
    try:
        trainer.fit(module, data, ckpt_path=point.path if point else None)
    finally:
        sharded_files.write_tensors = write_tensors
    metrics.save()
    give_slices_back(model)
    digest = hashlib.sha256()
    for tensor in (whole(tensor) for tensor in model.state_dict().values()):
        digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    result = {
        "losses": {line["step"]: line["train/loss"] for line in lines if "lr" in line},
        "norms": {line["step"]: line["grad_norm"] for line in lines if "lr" in line},
        "val": {line["step"]: line["val/loss"] for line in lines if "val/loss" in line},
        "weights": digest.hexdigest(),
        "failed": str(checkpoints.failed),
        "held": held(model),
    }
    (folder / f"rank-{trainer.global_rank}.json").write_text(json.dumps({**result, "rows": list(seen)}))
    return result


if __name__ == "__main__":
    quiet_lightning()
    place = Path(sys.argv[1])
    for case in json.loads((place / "cases.json").read_text()):
        train(place / case.pop("name"), **case)
