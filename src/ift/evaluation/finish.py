"""The end of a training run: the best model is tested, answers the test split, and everything is written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L

from ift.data.module import SFTDataModule
from ift.data.rows import Row
from ift.errors import one_line
from ift.evaluation.report import write_report
from ift.evaluation.responses import Answerer, score
from ift.model.gpt import GPT
from ift.model.weights import inspect_folder, load_weights
from ift.run import RunFolder, read_json, read_jsonl, write_json, write_jsonl
from ift.training.callbacks import KeepBest
from ift.training.machine import Device, peak_memory_bytes, versions
from ift.training.module import SFTModule


def finish(
    run: RunFolder,
    trainer: L.Trainer,
    module: SFTModule,
    datamodule: SFTDataModule,
    rows: Sequence[Row],
    answer: Answerer,
    best: KeepBest,
    device: Device,
    **about: Any,
) -> float | None:
    """Write responses.jsonl, summary.json, curves.png and report.html; return the best validation loss.

    about: what else belongs into the summary (why training stopped, how long it took, ...).
    """
    trainer.strategy.barrier()  # rank 0 may still be writing the model
    load_weights(module.model, inspect_folder(run.model))
    if rows:
        trainer.test(module, datamodule, verbose=False)
    if not trainer.is_global_zero:
        return best.val_loss
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
        "val_perplexity": at_best.get("val/perplexity"),
        "val_accuracy": at_best.get("val/accuracy"),
        **{f"test_{key}": value for key, value in tested.items()},
        **({} if clean_loss is None else {"clean_test_loss": clean_loss}),
        "train_tokens": module.tokens_seen,
        "supervised_tokens": module.supervised_seen,
        "tokens_per_second": module.tokens_seen / about["train_seconds"],
        "peak_memory_bytes": peak_memory_bytes(device.accelerator),
        "accelerator": device.accelerator,
        "precision": device.precision,
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "versions": versions(),
    }
    write_json(run.summary, summary)
    module.model.to(device.torch_device)
    summary = write_responses(run, module.model, rows, answer)
    write_json(run.summary, {**summary, "status": "finished"})  # last: what says so has nothing left to do
    return best.val_loss


def write_responses(run: RunFolder, model: GPT, rows: Sequence[Row], answer: Answerer) -> dict[str, Any]:
    """Answer the rows into responses.jsonl, put the scores into summary.json and the page; return the summary."""
    responses = answer(model, rows, what="answering") if rows else []
    write_jsonl(run.responses, responses)
    summary = {**(read_json(run.summary) if run.summary.exists() else {}), **score(responses)}
    summary |= {f"clean_{key}": value for key, value in score(without_leaks(run, responses)).items()}
    write_json(run.summary, summary)
    write_report(run)
    return summary


def without_leaks(run: RunFolder, responses: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Responses to test rows that have no near twin in training; none where all are so, since all say the same then."""
    leaked = {(leak["file"], leak["row"]) for leak in read_jsonl(run.leaks)} if run.leaks.exists() else set()
    clean = [response for response in responses if (response["file"], response["row"]) not in leaked]
    return clean if len(clean) < len(responses) else []


def show_summary(run: RunFolder) -> None:
    """The closing lines: the numbers, a few answers, and what to look at next."""
    summary, responses = read_json(run.summary), read_jsonl(run.responses)
    if summary.get("val_loss") is not None:
        print(
            f"best      validation loss {summary['val_loss']:.3f} at step {summary['best_step']} of {summary['steps']} "
            f"(untuned {summary['untuned_val_loss']:.3f}); stopped by {summary['stop_reason']}"
        )
    if not responses:
        return
    print(
        f"test      {summary['responses']} answers: exact match {summary['exact_match']:.1%}, "
        f"ROUGE-L {summary['rouge_l']:.3f}, BLEU {summary['bleu']:.3f}, ended by itself {summary['end_rate']:.1%}"
    )
    if "clean_responses" in summary:
        print(
            f"          {summary['clean_responses']} of them without a near twin in training: "
            f"exact match {summary['clean_exact_match']:.1%}, ROUGE-L {summary['clean_rouge_l']:.3f}, "
            f"BLEU {summary['clean_bleu']:.3f}"
        )
    for shown in responses[: 4 * (len(responses) // 4 or 1) : len(responses) // 4 or 1]:
        print(f"\n  {_short(shown['instruction'])}" + (f"\n  | {_short(shown['input'])}" if shown["input"] else ""))
        print(f"  -> {_short(shown['response'])}")
        if shown["response"] != shown["reference"]:
            print(f"  != {_short(shown['reference'])}")
    print(f"\nlook at   {run.report}")
    print(f"ask again python evaluate.py run={run.path} eval=responses")


def _short(text: str) -> str:
    return one_line(text, 110)
