"""Responses of a model to rows, and how close they are to the references: the file that all judging reads."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ift import stops
from ift.data.reading.rows import Row
from ift.errors import one_line
from ift.evaluation.answers import COLUMNS
from ift.evaluation.scoring import ENDS, METRICS, scores_of_run, with_scores
from ift.generation.engine import generate
from ift.generation.fitting import Overlong, fit
from ift.generation.sampling import Sampling
from ift.generation.stop_strings import StopStrings
from ift.model.gpt import GPT
from ift.progress import progress
from ift.run import RunFolder, read_json, read_jsonl, write_json, write_jsonl
from ift.settings import GenerateSettings
from ift.text.encoding import encode_prompt, turn_end
from ift.text.templates import Template
from ift.text.tokenizers import Tokenizer


def respond(
    model: GPT,
    rows: Sequence[Row],
    template: Template,
    tokenizer: Tokenizer,
    settings: GenerateSettings,
    *,
    seed: int = 0,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """One dict with COLUMNS for each row, in order. A prompt that fills the context gets an empty response."""
    template.prepare(rows)
    prompts = [encode_prompt(row, template, tokenizer) for row in rows]
    limit, stops = settings.max_new_tokens, StopStrings(settings.stop, tokenizer.decode)
    fitted = fit(prompts, Overlong.REFUSE, context_length=model.config.context_length, max_new_tokens=limit)
    generated = generate(
        model,
        fitted.prompts,
        end_of_text=turn_end(template, tokenizer),
        max_new_tokens=limit,
        sampling=Sampling.of(settings, seed),
        batch_size=settings.batch_size,
        until=stops,
        progress=advance,
    )
    responses = []
    for row, prompt, answer in zip(rows, prompts, fitted.answers(generated), strict=True):
        text = template.clean(stops.text(answer.ids), row)
        values = (
            row.instruction,
            row.input,
            template.reference(row),
            text,
            answer.stop_reason,
            len(prompt),
            len(answer.ids),
            row.file,
            row.number,
            row.category,
        )
        responses.append(dict(zip(COLUMNS, values, strict=True)))
    return responses


class Answerer:
    """Everything that turns rows into responses but the model: `answer(model, rows)`."""

    def __init__(self, template: Template, tokenizer: Tokenizer, settings: GenerateSettings, *, seed: int):
        self.template, self.tokenizer, self.settings, self.seed = template, tokenizer, settings, seed

    def __call__(
        self, model: GPT, rows: Sequence[Row], max_new_tokens: int | None = None, *, what: str | None = None
    ) -> list[dict[str, Any]]:
        """max_new_tokens: another limit than the settings'; what: the title of a progress bar."""
        settings = replace(self.settings, max_new_tokens=max_new_tokens or self.settings.max_new_tokens)
        with progress(what, len(rows), "answers") as show:

            def advance(rows: int) -> None:
                stops.check("while answering")
                show(rows)

            stops.check("before answering")
            return respond(model, rows, self.template, self.tokenizer, settings, seed=self.seed, advance=advance)


def write_responses(run: RunFolder, model: GPT, rows: Sequence[Row], answer: Answerer) -> dict[str, Any]:
    """Answer the rows into responses.jsonl and put the scores into summary.json; return the summary."""
    responses = answer(model, rows, what="answering") if rows else []
    write_jsonl(run.responses, responses)
    before = read_json(run.summary) if run.summary.exists() else {}
    summary = with_scores(before, scores_of_run(run, responses))
    write_json(run.summary, summary)
    return summary


def show_summary(run: RunFolder) -> None:
    """The closing lines: the numbers, a few answers, and what to look at next."""
    summary, responses = read_json(run.summary), read_jsonl(run.responses)
    if "stop_reason" in summary:  # of a training that came to its end
        print(_best_line(summary))
    if not responses:
        return
    ended = _number(summary, "end_rate", ".1%")
    print(f"test      {summary['responses']} answers: {_scores_line(summary)}, ended by itself {ended}")
    if "clean_responses" in summary:
        alone = _scores_line(summary, "clean_")
        print(f"          {summary['clean_responses']} of them without a near twin in training: {alone}")
    if summary["score_notes"]:
        print(f"note      {summary['score_notes']}")
    for shown in responses[: 4 * (len(responses) // 4 or 1) : len(responses) // 4 or 1]:
        print(f"\n  {_short(shown['instruction'])}" + (f"\n  | {_short(shown['input'])}" if shown["input"] else ""))
        print(f"  -> {_short(shown['response'])}")
        if shown["response"] != shown["reference"]:
            print(f"  != {_short(shown['reference'])}")
    print(f"\nlook at   {run.report}")
    print(f"ask again {shlex.join(['ift', 'evaluate', f'run={run.path}', 'eval=responses'])}")


def _scores_line(summary: dict[str, Any], prefix: str = "") -> str:
    if summary[prefix + "exact_match"] is None:
        return "no references"
    return ", ".join(
        f"{title} {_number(summary, prefix + name, '.1%' if name == 'exact_match' else '.3f')}"
        for name, title in METRICS.items()
    )


def _number(summary: dict[str, Any], name: str, form: str) -> str:
    """0.263 (0.240 to 0.287), with its 95 % interval where there is one."""
    ends = [format(summary[f"{name}_{end}"], form) for end in ENDS if f"{name}_{end}" in summary]
    return format(summary[name], form) + (f" ({' to '.join(ends)})" if ends else "")


def _best_line(summary: dict[str, Any]) -> str:
    if summary.get("val_loss") is None:
        return (
            f"trained   {summary['steps']} steps without validation rows: model/ is the last step's; "
            f"stopped by {summary['stop_reason']}"
        )
    if summary.get("untuned_is_best"):
        trained, step = summary.get("best_trained_val_loss"), summary.get("best_trained_step")
        nearest = "" if trained is None else f", the best one is {trained:.3f} at step {step} of {summary['steps']}"
        return (
            f"best      THE UNTUNED MODEL, validation loss {summary['val_loss']:.3f}: no step of training was better"
            f"{nearest}. model/ holds the untuned model (lower optim.lr, or look at the rows); "
            f"stopped by {summary['stop_reason']}"
        )
    return (
        f"best      validation loss {summary['val_loss']:.3f} at step {summary['best_step']} of {summary['steps']} "
        f"(untuned {summary['untuned_val_loss']:.3f}); stopped by {summary['stop_reason']}"
    )


def _short(text: str) -> str:
    return one_line(text, 110)
