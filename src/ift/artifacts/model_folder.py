"""A model folder rebuilds itself: weights, sizes, tokenizer and prompt template, nothing from today's configuration.

Opening one checks it without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.artifacts.adapter_folder import save_adapter
from ift.artifacts.bases import Bases
from ift.artifacts.model_template import template_and_tokenizer
from ift.artifacts.weights import Folder, build_model, inspect_folder, plan_model, save_weights
from ift.errors import WeightsError
from ift.run import write_json
from ift.sealed import recover_folder, remove_folder, replace_folder, seal
from ift.settings import ModelSettings, PromptSettings
from ift.text.chat_template_export import export_chat_template
from ift.text.chat_templates import read_template
from ift.text.encoding import turn_end
from ift.text.templates import Template
from ift.text.tokenizer_files import read_tokenizer
from ift.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from ift.model.gpt import GPT


def save_model_folder(
    path: Path,
    model: GPT,
    tokenizer: Tokenizer,
    template: Template,
    about: dict[str, Any] | None = None,
    weights: Iterator[Tensor] | None = None,
) -> None:
    """Write the folder beside its name, seal it and put it in place whole; the one before goes only then.

    about: where the model comes from (step, losses, hash of the data report), kept in ift.json.
    weights: what weights_in_order gives, for who must go through all of them
    """
    recover_folder(path)
    partial = path.with_name(path.name + ".part")
    remove_folder(partial)
    partial.mkdir(parents=True)
    model.stops |= {tokenizer.end_of_text}
    end = turn_end(template, tokenizer)  # first of all the ends: it was learnt
    if its := model.low_rank:
        save_adapter(model, partial, weights)
        ends = [end, *sorted(model.stops - {end})]
        write_json(partial / "generation_config.json", {"eos_token_id": ends, "do_sample": False})
        base = {"name": its.base, "sha256": its.base_hash, **({"four_bits": True} if its.four_bits else {})}
        about = {**(about or {}), "base": base}
    else:
        save_weights(model, partial, end_of_text=end, weights=weights)
    chat_template = export_chat_template(template, end=tokenizer.end_text, names=tokenizer.names)
    tokenizer.save(partial, context_length=model.config.context_length, chat_template=chat_template)
    write_json(partial / "prompt.json", {**template.to_json(), "hash": template.hash})
    write_json(partial / "ift.json", about or {})
    seal(partial, about or {})
    replace_folder(partial, path)


def open_model_folder(path: Path) -> tuple[Folder, Tokenizer, Template]:
    """All but the weights themselves. Raises WeightsError where something is missing or does not belong together."""
    folder = inspect_folder(path)
    tokenizer = read_tokenizer(path)
    if tokenizer.vocab_size > folder.config.vocab_size:
        raise WeightsError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens, the model {folder.config.vocab_size}"
        )
    try:
        stored = json.loads((path / "prompt.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}/prompt.json: cannot be read (a model folder holds its prompt template)") from error
    template = read_template(stored)
    if stored.get("hash") != template.hash:
        raise WeightsError(f"{path}/prompt.json: changed since the model was trained ({template.name} {template.hash})")
    return folder, tokenizer, template


def load_model_folder(path: Path, bases: Bases | None = None) -> tuple[GPT, Tokenizer, Template]:
    """bases: of other models, to share weights with.

    Raises WeightsError where something is missing, damaged, or does not belong together.
    """
    folder, tokenizer, template = open_model_folder(path)
    config = replace(folder.config, dropout=0.0, tokens=tokenizer.vocab_size)
    return bases.model(config, folder) if bases else build_model(config, folder), tokenizer, template


def load_published(
    model: ModelSettings, prompt: PromptSettings, bases: Bases | None = None
) -> tuple[GPT, Tokenizer, Template]:
    """A model that nobody has tuned here, with the template that these settings mean for it. Raises IftError.

    bases: of other models, to share weights with
    """
    template, tokenizer = template_and_tokenizer(prompt, model)
    config, weights = plan_model(model, vocab_size=tokenizer.vocab_size)
    built = bases.model(config, weights) if bases and weights else build_model(config, weights)
    built.stops |= {turn_end(template, tokenizer), tokenizer.end_of_text}
    return built, tokenizer, template
