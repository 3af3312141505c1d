"""The tokenizer of a model: its folder's own, unless another one is asked for by name. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ift.artifacts.adapter_folder import base_of, is_adapter
from ift.artifacts.weights import find_folder, fit_context, open_config
from ift.data.vocabulary import load_tokenizer
from ift.errors import WeightsError
from ift.model.families.gpt2 import GPT2_TOKENS, GPT2_VOCABULARY
from ift.settings import ModelSettings
from ift.text.templates import Template
from ift.text.tokenizer_files import FILES, has_tokenizer, read_tokenizer
from ift.text.tokenizers import Tokenizer

GPT2_CONTEXT = 1024
AUTO = (None, "auto")  # model.tokenizer: the folder's own


def model_tokenizer(settings: ModelSettings, template: Template) -> Tokenizer:
    """model.tokenizer where it names one; else that of the model's folder, fetched from the Hub too; else GPT-2's.

    Raises WeightsError for a folder without a tokenizer whose tokens are not GPT-2's, and for one that cannot be read.
    """
    if settings.tokenizer not in AUTO:
        return load_tokenizer(str(settings.tokenizer), template)
    folder = own_folder(settings)
    if folder is None:
        return load_tokenizer("gpt2", template)
    if has_tokenizer(folder):
        return read_tokenizer(folder)
    _refuse_other_tokens(folder)
    return load_tokenizer("gpt2", template)


def foreign(settings: ModelSettings, tokenizer: Tokenizer) -> str | None:
    """What to say of a tokenizer that was asked for by name and is not the model's own; None where it is."""
    folder = None if settings.tokenizer in AUTO else own_folder(settings)
    if folder is None or not has_tokenizer(folder):
        return None
    try:
        own = read_tokenizer(folder)
    except WeightsError:  # nobody asked for it
        return None
    if own.hash == tokenizer.hash:
        return None
    return f"{folder} has a tokenizer of its own, with other words at the same numbers (model.tokenizer=auto takes it)"


def own_folder(settings: ModelSettings) -> Path | None:
    """Where the model's tokenizer and chat template may lie; None: nowhere, it has GPT-2's."""
    name = settings.pretrained
    if name is None or (name.removeprefix("openai-community/") in GPT2_VOCABULARY and not Path(name).exists()):
        return None
    files = ("config.json", *FILES, "chat_template.jinja")
    folder = find_folder(name, files)
    if is_adapter(folder) and not has_tokenizer(folder):
        return find_folder(base_of(folder), files)
    return folder


def model_context(settings: ModelSettings) -> int:
    """Positions of the model: model.context_length, else those of its folder, else GPT-2's.

    Raises WeightsError where config.json is not understood, or gives fewer than model.context_length.
    """
    folder = own_folder(settings)
    if folder is None or not ((folder / "config.json").exists() or is_adapter(folder)):
        return settings.context_length or GPT2_CONTEXT
    return fit_context(settings, folder, open_config(folder)[1])


def _refuse_other_tokens(folder: Path) -> None:
    """Raises WeightsError where config.json says that the tokens are not GPT-2's."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokens, end = int(config["vocab_size"]), config.get("eos_token_id")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # reported where the model is read
        return
    wrong = []
    if tokens < GPT2_TOKENS:
        wrong.append(f"its {tokens} tokens are not GPT-2's {GPT2_TOKENS}")
    if end is not None and end != GPT2_TOKENS - 1:
        wrong.append(f"its end-of-text is {end}, not GPT-2's {GPT2_TOKENS - 1}")
    if wrong:
        raise WeightsError(
            f"{folder}: no tokenizer there, and {' and '.join(wrong)} "
            "(add its tokenizer.json, or model.tokenizer=FOLDER; model.tokenizer=gpt2 if it is GPT-2's after all)"
        )
