"""Run folders with models to export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ift.artifacts.bases import Bases
from ift.artifacts.model_folder import open_model_folder, save_model_folder
from ift.artifacts.weights import find_weights, load_model, weights_hash
from ift.data.demo import demo_rows
from ift.data.reading.rows import Row
from ift.model.adapters import adapted
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.model.low_rank import LowRank, chosen
from ift.run import RunFolder, write_json, write_jsonl
from ift.settings import save_settings
from ift.text.chat_templates import template_from
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer


@pytest.fixture(scope="session")
def small_tokenizer() -> Tokenizer:
    """300 tokens and the end-of-text, of the demo's words."""
    texts = [text for row in demo_rows(60) for text in (row["instruction"], row["input"], row["output"])]
    return Tokenizer.train(texts, size=300, name="small")


@pytest.fixture
def run_of(tmp_path, settings_of, small_tokenizer) -> Callable[..., RunFolder]:
    """run_of(name, prompt=..., padding=..., **sizes): a run folder with a random model, no weight of it zero.

    rows_with: what the data report counts; None: as the reports of earlier releases, nothing. rows: the test split.
    stops: tokens that end an answer besides the end-of-text.
    """

    def run_of(
        name: str = "run",
        *,
        prompt: str | Template = "phi3",
        padding: int = 0,
        tokenizer: Tokenizer = small_tokenizer,
        rows_with: dict[str, int] | None = None,
        rows: Sequence[Row] = (),
        stops: Sequence[int] = (),
        **sizes: Any,
    ) -> RunFolder:
        own = [f"prompt={prompt}"] if isinstance(prompt, str) else []
        settings = settings_of(*own, "generate.max_new_tokens=16")
        template = template_from(settings.prompt) if isinstance(prompt, str) else prompt
        run = RunFolder(Path(tmp_path, name))
        run.path.mkdir(parents=True)
        torch.manual_seed(0)
        size = {"n_layer": 2, "n_head": 2, "n_embd": 32, "context_length": 64, "dropout": 0.1, **sizes}
        model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size + padding, **size))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.stops = frozenset(stops)
        save_model_folder(run.model, model, tokenizer, template)
        save_settings(settings, run.config)
        write_json(run.summary, {"status": "finished", "val_loss": 1.25, "exact_match": 0.5, "steps": 1704})
        report = {"rows_in": 4000, "kept": 3990, "splits": {"train": 3400, "test": 390, "val": 200}}
        write_json(run.data_report, {**report, **({"rows_with": rows_with} if rows_with else {})})
        write_jsonl(run.test_rows, [row.to_json() for row in rows])
        return run

    return run_of


@pytest.fixture
def adapter_on(tmp_path, settings_of) -> Callable[..., RunFolder]:
    """adapter_on(base): a run whose model is a random adapter, with rows of two tokens, on the model of another run."""

    def adapter_on(base: RunFolder) -> RunFolder:
        run, folder = RunFolder(tmp_path / "adapter"), find_weights(str(base.model))
        model, (_, tokenizer, template) = load_model(folder), open_model_folder(base.model)
        matrices = chosen("all", None, folder.config)
        its_hash = weights_hash(folder)
        torch.manual_seed(1)
        adapted(model, LowRank(str(base.model), matrices, 4, 8.0, base_hash=its_hash, tokens=(7, 290)))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        save_model_folder(run.model, model, tokenizer, template)
        save_settings(settings_of("prompt=phi3", "generate.max_new_tokens=16"), run.config)
        return run

    return adapter_on


def beside_its_base(run: RunFolder) -> torch.nn.Module:
    """The adapter of a run as it was trained, not merged."""
    folder, tokenizer, _ = open_model_folder(run.model)
    return Bases().model(replace(folder.config, tokens=tokenizer.vocab_size), folder).eval()
