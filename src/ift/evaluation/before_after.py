"""The test split before and after tuning: both models answer it in the run's own template, and score its references.

    python evaluate.py run=RUN eval=before_after        the run's report shows where tuning helped and where it hurt

Each row is its own pair, so the differences are tested row by row (statistics.compare_pairs). A base model never saw
the template: that it answers worse in it is part of what tuning is for. What tuning cost is measured beside it, on text
that has nothing to do with the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ift.data.contract.examples import TooLong, make_example
from ift.data.reading.rows import Row, read_stored_rows
from ift.errors import ConfigError
from ift.evaluation.against_base import against_base, note_differences
from ift.evaluation.general_text import bits_per_byte, passages
from ift.evaluation.ngrams import chrf_of
from ift.evaluation.overlap import rouge_l, same
from ift.evaluation.responses import Answerer
from ift.evaluation.results import Outcome, Score
from ift.evaluation.statistics import POSITIVE, SHARE, UNIT, mean_interval
from ift.evaluation.subject import Bench, Subject
from ift.generation.likelihoods import reference_losses
from ift.run import RunFolder
from ift.settings import EvaluateSettings, load_settings
from ift.text.encoding import turn_end
from ift.text.templates import Template

TASK = "test split"
GENERAL = "general text"  # Python's documentation
SIMILAR = {"exact_match": SHARE, "rouge_l": UNIT, "chrf": UNIT}
OF_ANSWERS = {**SIMILAR, "loss": POSITIVE}
METRICS = {**OF_ANSWERS, "bits_per_byte": POSITIVE}


def check(everything: EvaluateSettings) -> None:
    """Raises ConfigError for a run that began from scratch, or without test rows."""
    settings, run = everything.eval, RunFolder.open(everything.run)
    if load_settings(run.config).model.pretrained is None:
        raise ConfigError(
            f"eval=before_after: {run.path} was trained from scratch: before it were random weights "
            "(report.html has the answers of step 0 to the sample rows)"
        )
    if settings.num_fewshot or not settings.base or list(settings.prompts) != ["template"]:
        raise ConfigError(
            "eval=before_after: both models are asked in the run's template, without solved questions "
            "(leave out eval.base, eval.prompts and eval.num_fewshot)"
        )
    if not run.test_rows.is_file() or not run.test_rows.stat().st_size:
        raise ConfigError(f"eval=before_after: {run.test_rows} has no rows (data.fractions.test gives it some)")


def evaluate(bench: Bench) -> Outcome:
    """Raises what `check` does."""
    check(bench.settings)
    settings, every = bench.settings.eval, read_stored_rows(bench.run.test_rows)
    rows = every[: settings.limit]
    template = bench.tuned.template
    assert template
    samples = [line for subject in (bench.base, bench.tuned) for line in _lines(bench, subject, template, rows)]
    texts = passages(settings.limit)
    samples += [line for subject in (bench.base, bench.tuned) for line in _general_lines(subject, texts)]
    scores = [score for model in ("tuned", "base") for score in _scores(model, samples)]
    differences = against_base(samples, scores, {}, scale_of=lambda metric, _: METRICS[metric], base_prompt="template")
    notes = [] if len(rows) == len(every) else [f"{len(rows)} of {len(every)} test rows."]
    if any(line["metrics"].get("loss", 0.0) is None for line in samples):
        notes.append("Rows whose prompt alone fills the context have no loss.")
    notes += note_differences(differences)
    versions = {f"template {template.name}": template.hash}
    return Outcome(scores, samples, versions, notes, {"against_base": differences})


def _lines(bench: Bench, subject: Subject, template: Template, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """A line of samples.jsonl for each row: what the model answers, and how close that is."""
    settings = bench.settings
    answer = Answerer(template, subject.tokenizer, settings.eval.generate, seed=settings.seed)
    said = answer(subject.model, rows, what=f"answering, {subject.label}")
    for number, (response, loss) in enumerate(zip(said, _losses(subject, template, rows), strict=True)):
        text, reference = response["response"], response["reference"]
        yield {
            "task": TASK,
            "doc_id": number,
            "model": subject.label,
            "prompt_form": "template",
            **{name: response[name] for name in ("instruction", "input", "category", "file", "row", "stop_reason")},
            "said": text,
            "target": reference,
            "metrics": {
                "exact_match": float(same(text, reference)),
                "rouge_l": rouge_l(text, reference),
                "chrf": chrf_of(text, reference),
                "loss": loss,
            },
        }


def _general_lines(subject: Subject, texts: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A line for each passage of text that has nothing to do with the rows: what tuning cost."""
    for number, (text, bits) in enumerate(
        zip(texts, bits_per_byte(subject.model, subject.tokenizer, texts), strict=True)
    ):
        yield {
            "task": GENERAL,
            "doc_id": number,
            "model": subject.label,
            "prompt_form": "template",  # of the evaluation; text that is read has none
            "text": text,
            "metrics": {"bits_per_byte": bits},
        }


def _losses(subject: Subject, template: Template, rows: Sequence[Row]) -> list[float | None]:
    """Nats per token of each reference; None where the prompt leaves no room for it."""
    losses: list[float | None] = [None] * len(rows)
    fitting = {}
    for number, row in enumerate(rows):
        try:
            fitting[number] = make_example(
                row,
                template,
                subject.tokenizer,
                max_length=subject.model.config.context_length,
                too_long="truncate_response",
            )
        except TooLong:
            continue
    tokens = subject.tokenizer
    found = reference_losses(subject.model, list(fitting.values()), end_of_text=turn_end(template, tokens))
    for number, loss in zip(fitting, found, strict=True):
        losses[number] = loss
    return losses


def _scores(model: str, samples: Sequence[dict[str, Any]]) -> Iterator[Score]:
    for metric, scale in METRICS.items():
        values = [line["metrics"][metric] for line in samples if line["model"] == model and metric in line["metrics"]]
        if not values:
            continue
        e = mean_interval([value for value in values if value is not None], scale)
        yield Score(
            task=TASK if metric in OF_ANSWERS else GENERAL,
            metric=metric,
            value=e.mean,
            n=e.n,
            low=e.low,
            high=e.high,
            model=model,
            prompt="template",
            higher_is_better=metric in SIMILAR,
        )
