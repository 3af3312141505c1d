"""What a new run takes over from the model that it begins with: of a run's its tokenizer and its prompt template, of
others their own chat template.

A model that was tuned with one template and is trained with another has to unlearn the first: where the command asks
for that, the terminal shows both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar

from ift import meeting
from ift.artifacts.model_template import decided, open_template
from ift.errors import ConfigError, WeightsError, one_line, warn
from ift.launch import is_other_rank
from ift.settings import CheckSettings, PromptSettings, SegmentSettings, Settings
from ift.text.chat_templates import ChatTemplate, read_template
from ift.text.conversations import Conversation
from ift.text.published import END_OF_TEXT
from ift.text.templates import Template

PROMPT = "prompt.json"  # of a model folder
ROWS = (  # what two templates are compared by
    Conversation("{instruction}", output="{output}"),
    Conversation("{instruction}", "{input}", "{output}"),
    Conversation("{instruction}", output="{output}", system="{system}"),
    Conversation("{instruction}", output="{output}", history=(("{instruction}", "{output}"),)),
)
SHOWN = 100  # characters of a line

S = TypeVar("S", Settings, CheckSettings)


def begin_with_its_own(settings: S, given: Collection[str]) -> S:
    """The settings of a new run, with tokenizer and template of the model that it begins with where none was asked for.

    given: the keys and groups of the command. Prints which template it is and why, or a warning where a model that was
    tuned here is to be trained with another. Raises ConfigError where prompt=chat finds no chat template, WeightsError
    where the folder's template cannot be read.
    """
    folder = None if settings.model.pretrained is None else model_folder(Path(settings.model.pretrained))
    if "prompt.segments" in given and settings.prompt.chat_template == "auto":
        settings = replace(settings, prompt=replace(settings.prompt, chat_template=None))
    if folder is None:
        with meeting.after_the_first("prompt"):  # it may be fetched
            prompt, why = decided(settings.prompt, settings.model, turns_asked="prompt.turns" in given)
        if why and not is_other_rank():
            print(why, flush=True)
        return replace(settings, prompt=prompt)
    model = replace(settings.model, pretrained=str(folder))
    if "model.tokenizer" not in given:
        model = replace(model, tokenizer=str(folder))
    settings = replace(settings, model=model)
    tuned = stored_template(folder)
    asked = settings.prompt
    if asked.is_open():
        own = as_settings(tuned, folder)
        own = replace(own, **{key: getattr(asked, key) for key in ("mask", "turns") if f"prompt.{key}" in given})
        if not is_other_rank():
            print(f"prompt    {tuned.name}, with which {folder} was tuned (prompt=NAME takes another)", flush=True)
        return replace(settings, prompt=own)
    template = open_template(asked, model)
    lines = first_difference(tuned, template.with_tokens(tuned.tokens, tuned.bos))
    if lines is not None and not is_other_rank():
        warn(
            f"{folder}: tuned with the prompt {tuned.name}, now trained with {template.name} "
            "(leave out prompt= to take its own)"
        )
        for what, line in zip((f"tuned with {tuned.name}", f"now {template.name}"), lines, strict=True):
            print(f"  {what:<24}{one_line(line, SHOWN)}", file=sys.stderr, flush=True)
    return settings


def model_folder(path: Path) -> Path | None:
    """The folder of a model that was tuned here: of a run its model/; None where it is none."""
    return next((folder for folder in (path / "model", path) if (folder / PROMPT).is_file()), None)


def stored_template(folder: Path) -> Template:
    try:
        return read_template(json.loads((folder / PROMPT).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / PROMPT}: cannot be read (a model folder holds its prompt template)") from error


def as_settings(template: Template, folder: Path) -> PromptSettings:
    settings = PromptSettings(template.name, template.mask, template.turns)
    settings.special_tokens = bool(template.tokens or template.bos)  # a file of before there were any means text
    if isinstance(template, ChatTemplate):
        return replace(settings, chat_template=str(folder))
    return replace(settings, segments=[SegmentSettings(s.text, s.supervised, s.when) for s in template.segments])


def first_difference(one: Template, other: Template) -> tuple[str, str] | None:
    """The first line in which two templates render a row otherwise, in quotes; None where they render all alike."""
    if one == other:
        return None
    for row in ROWS:
        for lines in zip_longest(*(rendered(template, row).split("\n") for template in (one, other))):
            if lines[0] != lines[1]:
                return tuple("(nothing more)" if line is None else repr(line) for line in lines)  # type: ignore[return-value]
    return None


def rendered(template: Template, row: Conversation) -> str:
    try:
        refusal = template.refusal(row)
        return refusal or "".join(END_OF_TEXT if piece.end else piece.text for piece in template.pieces(row))
    except ConfigError as error:
        return str(error)
