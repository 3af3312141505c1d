"""The end of a training run: the best model is loaded and tested, and the numbers are written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning as L

from ift.artifacts.machine import Device, peak_memory_bytes, versions
from ift.artifacts.weights import inspect_folder, load_weights
from ift.data.datamodule import SFTDataModule
from ift.errors import DivergedError
from ift.model.nf4 import numbers
from ift.run import RunFolder, read_jsonl, write_json
from ift.training.callbacks import KeepBest
from ift.training.module import SFTModule
from ift.training.sharded import give_slices_back


def test_best(
    run: RunFolder,
    trainer: L.Trainer,
    module: SFTModule,
    datamodule: SFTDataModule,
    best: KeepBest,
    device: Device,
    **about: Any,
) -> None:
    """Put the best weights into the module, measure them on the test rows and write summary.json.

    about: what else belongs into the summary (why training stopped, how long it took, ...).
    Raises DivergedError, on every rank, where the loss on the test rows is no finite number.
    """
    trainer.strategy.barrier()  # rank 0 may still be writing the model
    give_slices_back(module.model)
    load_weights(module.model, inspect_folder(run.model))
    if len(datamodule.used("test")):
        trainer.test(module, datamodule, verbose=False)
        loss = float(trainer.callback_metrics.get("test/loss", 0.0))  # none where its batches are limited to none
        if not math.isfinite(loss):
            raise DivergedError(f"step {best.best_step}: test/loss of the model is {loss:g} (lower optim.lr)")
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        logger.save()
    metrics = read_jsonl(run.metrics)
    at_best: dict[str, Any] = next((m for m in metrics if m["step"] == best.best_step), {})
    tested = {key: metrics[-1].get(f"test/{key}") for key in ("loss", "perplexity", "accuracy")}
    clean_loss = metrics[-1].get("clean_test/loss")
    summary = {
        "status": "trained; not answered yet",
        **about,
        "best_step": best.best_step,
        "steps": trainer.global_step,
        "untuned_val_loss": metrics[0].get("val/loss"),
        "val_loss": best.val_loss,
        **untuned_is_best(metrics, best),
        "val_perplexity": at_best.get("val/perplexity"),
        "val_accuracy": at_best.get("val/accuracy"),
        **{f"test_{key}": value for key, value in tested.items()},
        **({} if clean_loss is None else {"clean_test_loss": clean_loss}),
        **bits_per_byte(module, {"val": at_best, "test": metrics[-1], "clean_test": metrics[-1]}),
        "train_tokens": module.tokens_seen,
        "supervised_tokens": module.supervised_seen,
        "tokens_per_second": module.tokens_seen / about["train_seconds"],
        "peak_memory_bytes": peak_memory_bytes(device),
        "accelerator": device.accelerator,
        "precision": device.precision,
        "parameters": numbers(module.model),
        **trained_parameters(module),
        "versions": versions(),
    }
    write_json(run.summary, summary)
    module.model.to(device.torch_device)


def trained_parameters(module: SFTModule) -> dict[str, int]:
    """For summary.json: how many of an adapter are trained; nothing of other runs."""
    if module.model.low_rank is None:
        return {}
    return {"trained_parameters": sum(p.numel() for p in module.model.parameters() if p.requires_grad)}


def bits_per_byte(module: SFTModule, lines: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """For summary.json: of each split that was measured in bits per byte, and the bytes of its supervised text.

    lines: of metrics.jsonl, by split
    """
    found: dict[str, Any] = {}
    for split, line in lines.items():
        if (bits := line.get(f"{split}/bits_per_byte")) is not None and module.text_size:
            found |= {f"{split}_bits_per_byte": bits, f"{split}_bytes": module.text_size(split).bytes}
    return found


def untuned_is_best(metrics: list[dict[str, Any]], best: KeepBest) -> dict[str, Any]:
    """For summary.json: whether no step of training was better than none, and then the best that one came to."""
    if best.val_loss is None:
        return {}
    if best.best_step > 0:
        return {"untuned_is_best": False}
    if best.monitor != "val/loss":  # better by another number, which the loss says nothing of
        return {"untuned_is_best": True}
    trained = [(line["val/loss"], line["step"]) for line in metrics if line["step"] > 0 and "val/loss" in line]
    loss, step = min(trained, default=(None, None))
    return {"untuned_is_best": True, "best_trained_val_loss": loss, "best_trained_step": step}
