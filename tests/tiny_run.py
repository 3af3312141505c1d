"""A whole run folder in a fraction of a second: a random tiny model that nobody trained, with answers to a few rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ift.artifacts.model_folder import save_model_folder
from ift.data.demo import demo_rows
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.run import RunFolder, write_json, write_jsonl
from ift.settings import Settings, save_settings
from ift.text.chat_templates import template_from
from ift.text.tokenizers import Tokenizer


def make_run(
    path: Path, settings_of: Callable[..., Settings], *, seed: int = 1, context_length: int = 256, rows: int = 12
) -> RunFolder:
    """The files that evaluations read: model/, config.yaml, metrics.jsonl, summary.json, responses.jsonl."""
    run, settings = RunFolder(path), settings_of()
    path.mkdir(parents=True, exist_ok=True)
    asked = demo_rows(60, seed=0)[:rows]
    texts = [text for row in demo_rows(60, seed=0) for text in (row["instruction"], row["input"], row["output"])]
    tokenizer = Tokenizer.train(texts, size=400, name="tiny")
    torch.manual_seed(seed)
    model = GPT(
        GPTConfig(
            n_layer=2,
            n_head=2,
            n_embd=32,
            context_length=context_length,
            vocab_size=tokenizer.vocab_size,
            dropout=0.0,
            tie_weights=True,
        )
    )
    save_model_folder(run.model, model, tokenizer, template_from(settings.prompt))
    save_settings(settings, run.config)
    metrics = [
        {"step": step, "tokens": 100 * step, "train/loss": 5.0 - step, "val/loss": 5.0 - step} for step in range(3)
    ]
    write_jsonl(run.metrics, metrics)
    steps = {"steps": 2, "best_step": 2, "stop_reason": "max_epochs", "train_seconds": 1.0, "tokens_per_second": 200.0}
    losses = {"val_loss": 3.0, "untuned_val_loss": 5.0, "test_loss": 3.0}
    machine = {"accelerator": "cpu", "precision": "fp32", "peak_memory_bytes": 10**9, "versions": {}}
    write_json(run.summary, {"status": "finished", **steps, **losses, **machine})
    write_jsonl(
        run.responses,
        [
            {
                "instruction": row["instruction"],
                "input": row["input"],
                "reference": row["output"],
                "response": row["output"] if number % 2 else f"answer {number} of model {seed}",
                "stop_reason": "end",
                "prompt_tokens": 40,
                "response_tokens": 5,
                "file": "demo",
                "row": number,
                "category": "",
            }
            for number, row in enumerate(asked, start=1)
        ],
    )
    return run
