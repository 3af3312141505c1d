"""The prompt template of a model: its own chat template where it has one and no other is asked for. Needs no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ift.artifacts.download import is_name
from ift.artifacts.model_tokenizer import model_tokenizer, own_folder
from ift.artifacts.weights import find_folder
from ift.errors import ConfigError, one_line
from ift.settings import ModelSettings, PromptSettings
from ift.text.chat_shapes import OTHERWISE
from ift.text.chat_templates import TEMPLATE_FILES, ChatTemplate, has_chat_template, template_from
from ift.text.encoding import made_for
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer


def decided(prompt: PromptSettings, model: ModelSettings, *, turns_asked: bool = False) -> tuple[PromptSettings, str]:
    """The settings with the template that they mean for this model, and what to say of it ("": nothing).

    turns_asked: prompt.turns was asked for. Else the last answer of each row alone is learnt with a template that
    writes an earlier one otherwise (Qwen3: without its thoughts): what it would teach there is nothing that the model
    ever writes. Raises ConfigError for prompt=chat where the model has no chat template, or one that fails.
    """
    folder = own_folder(model)
    has_own = folder is not None and has_chat_template(folder)
    name = "" if model.pretrained is None else short_name(model.pretrained)
    if not prompt.is_open():
        if has_own and prompt.chat_template is None:
            return prompt, (
                f"prompt    {prompt.name}, not the chat template that {name} was tuned with: its turns, their ends and "
                "what it learnt of them are given up (leave out prompt= to take its own)"
            )
        return prompt, ""
    if has_own:
        own = replace(prompt, name=name, chat_template=model.pretrained, segments=[])
        why = f"prompt    the model's own chat template ({name})"
        last = replace(own, turns="last")
        if own.turns == "all" and not turns_asked and not open_template(last, model).keeps_answers:
            return last, f"{why}; it {OTHERWISE}: the last one of each row is learnt"
        return own, why
    if prompt.chat_template == "auto":
        why = f"prompt    {prompt.name}: {name} has no chat template of its own" if folder else ""
        return replace(prompt, chat_template=None), why
    whose = f"{one_line(model.pretrained, 100)} has" if model.pretrained else "a model from scratch has"
    raise ConfigError(
        f"prompt=chat: {whose} no chat template (prompt.chat_template=FOLDER of a model that has one, or prompt=alpaca)"
    )


def open_template(prompt: PromptSettings, model: ModelSettings) -> Template:
    """The template that settings mean for a model; that of a name on the Hub is fetched.

    Raises ConfigError where the template fails, WeightsError or MachineError where it cannot be had.
    """
    if prompt.is_open():
        prompt, _ = decided(prompt, model)
    place = prompt.chat_template
    if place is None or not is_name(place):
        return template_from(prompt)
    folder = find_folder(place, TEMPLATE_FILES)
    return ChatTemplate.from_folder(folder, mask=prompt.mask, turns=prompt.turns, name=short_name(place))


def template_and_tokenizer(prompt: PromptSettings, model: ModelSettings) -> tuple[Template, Tokenizer]:
    """What settings mean for a model: its tokenizer, and the template made for it. Raises as the two do."""
    template = open_template(prompt, model)
    tokenizer = model_tokenizer(model, template)
    return made_for(template, tokenizer, special_tokens=prompt.special_tokens), tokenizer


def short_name(pretrained: str) -> str:
    """What a model is called: the last part of its folder's path or of its name on the Hub."""
    path = Path(pretrained)
    return path.resolve().name if path.exists() else path.name
