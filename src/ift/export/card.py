"""README.md of an export: what the model is, what it was trained on, its numbers, how to use it. No value is markup."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import jinja2
import yaml  # type: ignore[import-untyped]

from ift.errors import IftError, one_line
from ift.export.source import RunModel, joint
from ift.run import read_object
from ift.settings import Settings, load_settings
from ift.text.chat_templates import ChatTemplate
from ift.text.conversations import Conversation

NUMBERS = (  # of summary.json, in the order of the card
    "steps", "best_step", "untuned_val_loss", "val_loss", "val_perplexity", "test_loss", "test_perplexity",
    "test_bits_per_byte", "exact_match", "rouge_l", "chrf", "bleu", "end_rate", "responses", "train_tokens",
    "supervised_tokens", "train_seconds", "parameters",
)  # fmt: skip
COUNTS = ("rows_in", "kept", "dropped", "merged", "tokens", "supervised_tokens")  # of data_report.json
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
FILES = 20  # of the data, that are named
DEMO = "The rows are made by `ift` itself, under its own licence."
UNKNOWN = "The licence of the data is not known to `ift`: look where the data comes from."


def card(
    source: RunModel,
    *,
    to: str,
    dtype: str,
    file: str,
    scores: Sequence[Mapping[str, Any]] = (),
    license: str | None = None,
    place: str = "FOLDER",
    proof: Sequence[str] = (),
) -> str:
    """Markdown with the front matter that the Hub reads, its model-index among it.

    scores: numbers with their intervals, as results.json has them. license: what the Hub calls it; None: left out.
    place: where the folder will be found. proof: what a comparison of answers with other programs has shown.

    What comes from files of the run (its name, its template, what it was trained with) stands in code spans and code
    blocks with more backticks around it than in it, so it can begin neither markup nor HTML.
    """
    # a file that may be missing, or be anything: then the card says less
    summary, _ = read_object(source.run.summary, advice="")
    settings = _settings(source)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown; code() and block() keep each value from being more than text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": code, "cell": cell, "block": block}
    base = settings.model.pretrained if settings else None
    on_hub = _on_hub(base)
    if base is not None and not on_hub:
        base = Path(base).name  # where it lies on this machine is nobody else's business
    scores = [score for score in scores if _is_number(score.get("value"))]
    front = _front_matter(
        source, to=to, base=base if on_hub else None, license=license, scores=scores, settings=settings
    )
    inputs = source.rows_with("input") != 0 and not source.template.missing_place(Conversation("x", "x"))
    return environment.get_template("card.md.j2").render(
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000),
        name=source.name,
        to=to,
        dtype=dtype,
        file=file,
        place=place,
        license=license,
        config=source.config,
        kind="GPT-2" if source.config.family == "gpt2" else f"{code(source.family.architecture)} of transformers",
        parameters=source.parameters,
        vocabulary=source.tokenizer.name,
        base=base,
        template=source.template,
        prompt=source.template.prompt(Conversation("{instruction}")),
        with_input=source.template.prompt(Conversation("{instruction}", "{input}")),
        inputs=inputs,
        about_input=_about_input(source, to),
        about_system=_about_system(source),
        one_turn=source.rows_with("history") == 0,
        end=source.tokenizer.end_text,
        stops=[source.tokenizer.decode([id]) for id in sorted(source.stops)],
        proof=proof,
        sources=_sources(source, settings),
        about_licence=DEMO if settings and settings.data.demo_rows else UNKNOWN,
        counts=_numbers(source.report, COUNTS),
        splits=_numbers(source.report.get("splits"), ("train", "test", "val")),
        rows_with=_numbers(source.report.get("rows_with"), ("input", "system", "history")),
        scores=[_shown(score) for score in scores],
        numbers=_numbers(summary, tuple(key for key in NUMBERS if key not in {score["metric"] for score in scores})),
        limits=_limits(source, summary),
    )


def code(text: Any) -> str:
    """One line as a code span."""
    line = one_line(str(text), 300)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def cell(text: Any) -> str:
    """One line as a code span in a table, where a bar ends a cell even there."""
    return code(text).replace("|", "\\|")


def block(text: str) -> str:
    """Lines as a code block."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


# -- front matter ------------------------------------------------------------------------------------------------------


def _front_matter(
    source: RunModel,
    *,
    to: str,
    base: str | None,
    license: str | None,
    scores: Sequence[Mapping[str, Any]],
    settings: Settings | None,
) -> dict[str, Any]:
    """What the Hub reads. Numbers stand in its model-index, each set of questions with its own."""
    front: dict[str, Any] = {
        "library_name": {"hf": "transformers", "peft": "peft"}.get(to, "gguf"),
        "pipeline_tag": "text-generation",
        "tags": [source.config.family, "instruction-tuning"],
    }
    if license:
        front["license"] = license
    if base:
        front["base_model"] = base
    if settings and settings.data.hub and _on_hub(settings.data.hub):
        front["datasets"] = [settings.data.hub]
    results: dict[str, dict[str, Any]] = {}
    for score in scores:
        task = one_line(str(score["task"]), 100)
        result = results.setdefault(
            task,
            {
                "task": {"type": "text-generation"},
                "dataset": {"name": task, "type": re.sub(r"[^\w.-]+", "-", task).strip("-") or "rows", "split": "test"},
                "metrics": [],
            },
        )
        metric = one_line(str(score["metric"]), 100)
        between = _shown(score)["interval"]
        name = f"{metric}, 95 % interval {between}, n = {score['n']:,}" if between else f"{metric}, n = {score['n']:,}"
        result["metrics"].append({"type": metric, "value": round(float(score["value"]), 4), "name": name})
    if results:
        front["model-index"] = [{"name": one_line(source.name, 96), "results": list(results.values())}]
    return front


def _on_hub(name: str | None) -> bool:
    return name is not None and HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


# -- sentences ---------------------------------------------------------------------------------------------------------


def _about_input(source: RunModel, to: str) -> str:
    """How an instruction and its input are one prompt."""
    template = source.template
    if source.rows_with("input") == 0:
        return "No row of the training had an input beside its instruction."
    if template.missing_place(Conversation("x", "x")) == "input":
        return "The layout has no place for an input beside the instruction."
    between = joint(template)
    beside = '`{"role": "user", "content": "Translate.", "input": "Hello"}`'
    if between is None:
        words = f"A message with an input beside its content, as in {beside}, is written as in training"
        return f"{words} by transformers; a program whose messages have one text cannot write it."
    after = code(json.dumps(between, ensure_ascii=False))
    words = f"In a message of one text an input follows its instruction after {after}"
    if to == "hf" and not isinstance(template, ChatTemplate):
        return f"{words}; transformers takes it beside the content too, as in {beside}."
    return f"{words}."


def _about_system(source: RunModel) -> str:
    if source.template.missing_place(Conversation("x", system="x")) == "system":
        return "The layout has no place for a system message."
    rows = source.rows_with("system")
    if rows is None:
        return "How many rows had a system message was not recorded."
    return f"{rows:,} rows had a system message." if rows else "No row had a system message: leave it out."


def _sources(source: RunModel, settings: Settings | None) -> list[str]:
    """The names of the data, without their places on this machine, and their rows."""
    files = source.report.get("files")
    found = []
    for file in files if isinstance(files, list) else []:
        if isinstance(file, dict) and isinstance(file.get("file"), str):
            hub = settings is not None and file["file"] == settings.data.hub
            name = file["file"] if hub else Path(file["file"]).name
            rows = file.get("rows_in")
            role = "" if file.get("role") in (None, "all") else f" ({file['role']})"
            found.append(f"{name}{role}: {rows:,} rows" if _is_number(rows) else f"{name}{role}")
    more = len(found) - FILES
    return [*found[:FILES], *([f"and {more:,} files more"] if more > 0 else [])]


def _limits(source: RunModel, summary: Mapping[str, Any]) -> list[str]:
    """What the model is not known to do, by the run's own numbers."""
    splits = source.report.get("splits")
    rows = splits.get("train") if isinstance(splits, dict) else None
    context = source.config.context_length
    limits = [f"A prompt and its answer have {context:,} tokens together; what is longer was never seen."]
    if _is_number(rows):
        limits.append(
            f"It learnt from {rows:,} rows. What is unlike them, another language among it, was not measured."
        )
    limits.append("Nothing was done for safety beyond what the rows hold: it can state what is false or harmful.")
    end = summary.get("end_rate")
    if _is_number(end) and end < 1:
        limits.append(f"{1 - end:.1%} of its answers to test rows did not end by themselves.")
    leaks = source.report.get("leaks")
    leaked = leaks.get("test") if isinstance(leaks, dict) else None
    if _is_number(leaked) and leaked:
        words = f"{leaked:,} test rows have a near twin in training, which flatters the numbers"
        clean = summary.get("clean_exact_match")
        limits.append(f"{words}; exact match without them is {clean:.3f}." if _is_number(clean) else f"{words}.")
    if summary.get("untuned_is_best") is True:
        limits.append("No step of training was better than the untuned model, and this is the untuned model.")
    return limits


# -- values from files that may hold anything --------------------------------------------------------------------------


def _shown(score: Mapping[str, Any]) -> dict[str, str]:
    low, high = score.get("low"), score.get("high")
    between = f"{low:.3f} to {high:.3f}" if _is_number(low) and _is_number(high) else ""
    who = [score.get("model", ""), score.get("prompt", "")]
    about = " ".join(str(word) for word in who if word not in ("", "tuned", "raw"))
    task = f"{score['task']} ({about})" if about else str(score["task"])
    return {
        "task": task,
        "metric": str(score["metric"]),
        "value": f"{score['value']:.3f}",
        "interval": between,
        "n": f"{score['n']:,}",
    }


def _numbers(value: Any, keys: tuple[str, ...]) -> list[tuple[str, str]]:
    if not isinstance(value, dict):
        return []
    numbers = [(key, value.get(key)) for key in keys]
    return [
        (key, f"{number:,}" if isinstance(number, int) else f"{number:,.4g}")
        for key, number in numbers
        if _is_number(number)
    ]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _settings(source: RunModel) -> Settings | None:
    """The run's own; None where they cannot be read."""
    try:
        return load_settings(source.run.config)
    except IftError:
        return None
