"""README.md of an export: what the model is, what it was trained on, its numbers, how to use it. No value is markup."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2

from ift.errors import IftError, one_line
from ift.export.source import RunModel
from ift.forms import DATA_REPORT
from ift.run import read_object
from ift.settings import load_settings
from ift.text.conversations import Conversation

NUMBERS = (  # of summary.json, in the order of the card
    "steps", "best_step", "untuned_val_loss", "val_loss", "val_perplexity", "test_loss", "test_perplexity",
    "exact_match", "rouge_l", "bleu", "end_rate", "responses", "train_tokens", "supervised_tokens", "train_seconds",
    "parameters",
)  # fmt: skip
COUNTS = ("rows_in", "kept", "dropped", "merged", "tokens", "supervised_tokens")  # of data_report.json
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def card(source: RunModel, *, to: str, dtype: str, file: str) -> str:
    """Markdown with the front matter that the Hub reads.

    What comes from files of the run (its name, its template, what it was trained with) stands in code spans and code
    blocks with more backticks around it than in it, so it can begin neither markup nor HTML.
    """
    run = source.run
    # a file that may be missing, or be anything: then the card says less
    summary, _ = read_object(run.summary, advice="")
    report, _ = read_object(run.data_report, DATA_REPORT, advice="")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown; code() and block() keep each value from being more than text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": code, "block": block, "yaml": lambda text: json.dumps(text)}
    base = _pretrained(source)
    on_hub = base is not None and HUB_NAME.fullmatch(base) is not None and not Path(base).exists()
    if base is not None and not on_hub:
        base = Path(base).name  # where it lies on this machine is nobody else's business
    prompt = source.template.prompt(Conversation("{instruction}"))
    with_input = source.template.prompt(Conversation("{instruction}", "{input}"))
    return environment.get_template("card.md.j2").render(
        name=source.name,
        to=to,
        dtype=dtype,
        file=file,
        config=source.config,
        parameters=source.parameters,
        vocabulary=source.tokenizer.name,
        base=base,
        on_hub=on_hub,
        template=source.template,
        prompt=prompt,
        with_input=with_input,
        counts=_numbers(report, COUNTS),
        splits=_numbers(report.get("splits"), ("train", "test", "val")),
        numbers=_numbers(summary, NUMBERS),
    )


def code(text: Any) -> str:
    """One line as a code span."""
    line = one_line(str(text), 300)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def block(text: str) -> str:
    """Lines as a code block."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def _numbers(value: Any, keys: tuple[str, ...]) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return []
    numbers = [(key, value.get(key)) for key in keys]
    return [
        (key, f"{number:,}" if isinstance(number, int) else f"{number:,.4g}")
        for key, number in numbers
        if isinstance(number, int | float) and not isinstance(number, bool)
    ]


def _pretrained(source: RunModel) -> str | None:
    """What training began with, by the run's own settings; None: from scratch, or not known."""
    try:
        return load_settings(source.run.config).model.pretrained
    except IftError:
        return None
