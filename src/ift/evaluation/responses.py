"""Responses of a model to rows, and how close they are to the references: the file that all judging reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ift import stops
from ift.data.examples import encode_prompt
from ift.data.prompts import Template
from ift.data.rows import Row
from ift.data.tokenizer import Tokenizer
from ift.evaluation.answers import COLUMNS
from ift.generation.decode import Generated, Sampling, generate
from ift.model.gpt import GPT
from ift.progress import progress
from ift.settings import GenerateSettings


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
    prompts = [encode_prompt(row, template, tokenizer) for row in rows]
    fits = [i for i, prompt in enumerate(prompts) if len(prompt) < model.config.context_length]
    generated = generate(
        model,
        [prompts[i] for i in fits],
        end_of_text=tokenizer.end_of_text,
        max_new_tokens=settings.max_new_tokens,
        sampling=Sampling(settings.temperature, settings.top_k, settings.top_p, seed),
        batch_size=settings.batch_size,
        progress=advance,
    )
    by_row = dict(zip(fits, generated, strict=True))
    responses = []
    for i, row in enumerate(rows):
        answer = by_row.get(i, Generated([], "context"))
        text = template.clean(tokenizer.decode(answer.ids), row)
        values = (
            row.instruction,
            row.input,
            row.output,
            text,
            answer.stop_reason,
            len(prompts[i]),
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


def score(responses: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Agreement with the references, as shares from 0 to 1, and what the responses are like.

    exact_match      equal after white space at the ends is removed
    rouge_l          F-measure of the longest common subsequence (Lin 2004), mean over rows
    bleu             corpus BLEU of order 4 (Papineni et al. 2002)
    end_rate         share that the model ended by itself
    repetition_rate  mean share of 4-grams of words that occurred before in the same response
    """
    from torchmetrics.functional.text import bleu_score, rouge_score

    if not responses:
        return {}
    texts = [r["response"] for r in responses]
    references = [r["reference"] for r in responses]
    n = len(texts)
    rouge = rouge_score(texts, references, rouge_keys="rougeL")["rougeL_fmeasure"]
    return {
        "responses": n,
        "exact_match": sum(a.strip() == b.strip() for a, b in zip(texts, references, strict=True)) / n,
        "rouge_l": float(rouge),
        "bleu": float(bleu_score(texts, [[reference] for reference in references])),
        "response_tokens": sum(r["response_tokens"] for r in responses) / n,
        "end_rate": sum(r["stop_reason"] == "end" for r in responses) / n,
        "repetition_rate": sum(repetition(text) for text in texts) / n,
    }


def repetition(text: str, order: int = 4) -> float:
    """Share of a text's word n-grams that are repeats of an earlier one; 0 for a text too short to have any."""
    words = text.split()
    grams = [tuple(words[i : i + order]) for i in range(len(words) - order + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
