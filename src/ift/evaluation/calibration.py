"""How well the model predicts the test split's own answers, and whether it is as sure as it is right.

python evaluate.py run=RUN eval=calibration                      token perplexity, bits per byte, calibration error
python evaluate.py run=RUN eval=calibration eval.base=true       the pretrained model on the same tokens beside it

Nothing is generated: every supervised token of the test rows is predicted from those before it, as in training.

perplexity          exp of the mean loss of a token; the mean loss is summary.json's test_loss
bits_per_byte       all losses in bits, over the bytes of the supervised text: comparable between tokenizers
                    (ift.data.text_size)
accuracy            share of tokens that are the model's first choice
calibration_error   expected calibration error (Naeini et al. 2015; Guo et al. 2017): tokens go into 15 bins of equal
                    width by the probability of the first choice, and the gaps between that and the accuracy of a bin
                    are averaged over tokens
confidence          mean probability of the first choice; less the accuracy it is overconfidence, which a note tells
answer_loss         mean loss of a row's tokens, mean over rows: the one that is paired row by row
answer_bits_per_byte    the same in bits per byte: what `ift compare` pairs where tokenizers differ

Intervals take rows as the unit: tokens of one row are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ift import stops
from ift.data.reading.rows import Row, read_stored_rows
from ift.errors import ConfigError, DataError
from ift.evaluation.against_base import against_base, note_differences
from ift.evaluation.results import Outcome, Score
from ift.evaluation.statistics import POSITIVE, mean_interval
from ift.evaluation.subject import Bench, Subject
from ift.progress import progress
from ift.run import RunFolder
from ift.settings import EvaluateSettings, load_settings
from ift.text.encoding import turn_end

if TYPE_CHECKING:
    from ift.data.contract.examples import Example
    from ift.text.templates import Template

BINS = 15  # as Guo et al. 2017
BATCH_TOKENS = 4096  # that one forward computes
TILE = 128  # positions whose probabilities exist together
DRAWS = 200  # of outcomes that a model would see if it were calibrated exactly
IN_BYTES = "answer_bits_per_byte"
TASK, PROMPT = "test", "template"  # every model is asked in the template that the run was tuned with

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Predicted:
    """The supervised tokens of one row. All (S,): in nats, the first choice's probability, whether it is the token."""

    loss: Floats
    confidence: Floats
    right: NDArray[np.bool_]
    bytes: int  # of the supervised text

    @property
    def bits_per_byte(self) -> float | None:
        return float(self.loss.sum()) / math.log(2) / self.bytes if self.bytes else None


def check(settings: EvaluateSettings) -> None:
    """Raises ConfigError for a setting that would have no effect, DataError for a run without test rows."""
    if settings.eval.num_fewshot:
        raise ConfigError(f"eval.num_fewshot={settings.eval.num_fewshot}: nothing is asked here (leave it out)")
    rows = RunFolder.open(settings.run).test_rows
    if not rows.is_file() or not rows.stat().st_size:
        raise DataError(f"{rows}: no test rows (train with data.fractions.test above 0)")


def evaluate(bench: Bench) -> Outcome:
    """Raises what `check` does, and DataError where no test row fits the model."""
    check(bench.settings)
    stored = read_stored_rows(bench.run.test_rows)
    rows = stored[: bench.settings.eval.limit]
    template = bench.tuned.template
    assert template
    scores: list[Score] = []
    samples: list[dict[str, Any]] = []
    notes: list[str] = []
    about: dict[str, Any] = {"reliability": {}, "tokens": {}, "bytes": {}}
    for subject in bench.subjects:
        examples = list(_examples(bench, subject, template, rows))
        if not examples:
            raise DataError(
                f"{bench.run.test_rows}: no row fits the model's {subject.model.config.context_length} positions"
            )
        end, title = turn_end(template, subject.tokenizer), f"{subject.label} calibration"
        predicted = predict(subject, [example for _, example in examples], end=end, title=title)
        scores += scores_of(predicted, model=subject.label)
        samples += [
            _sample(number, rows[number], each, template, model=subject.label)
            for (number, _), each in zip(examples, predicted, strict=True)
        ]
        confidence, right = joined(predicted)
        about["reliability"][subject.label] = reliability(confidence, right)
        about["tokens"][subject.label] = len(right)
        about["bytes"][subject.label] = sum(each.bytes for each in predicted)
        notes += _notes(subject.label, predicted, left_out=len(rows) - len(examples))
    if len(rows) < len(stored):
        notes.insert(0, f"The first {len(rows):,} of {len(stored):,} test rows. eval.limit=null asks all.")
    tested = [score for score in scores if score.metric != IN_BYTES]  # of one tokenizer it is answer_loss once more
    differences = against_base(samples, tested, {}, scale_of=lambda *_: POSITIVE, base_prompt=PROMPT)
    return Outcome(
        scores,
        samples,
        {f"template {template.name}": template.hash},
        [*notes, *note_differences(differences)],
        {**about, **({"against_base": differences} if differences else {})},
    )


# -- tokens ------------------------------------------------------------------------------------------------------------


def _examples(bench: Bench, subject: Subject, template: Template, rows: Sequence[Row]) -> Iterator[tuple[int, Example]]:
    """Number of each row and the row as training encoded it; those that do not fit are left out, as they were there."""
    from ift.data.contract.examples import TooLong, make_example

    data, context = load_settings(bench.run.config).data, subject.model.config.context_length
    template.prepare(rows)
    for number, row in enumerate(rows):
        try:
            example = make_example(
                row,
                template,
                subject.tokenizer,
                max_length=min(data.max_length or context, context),
                too_long="drop" if data.too_long == "error" else data.too_long,
                truncate=data.truncate or "end",
            )
        except TooLong:
            continue
        if example.targets:
            yield number, example


def predict(subject: Subject, examples: Sequence[Example], *, end: int, title: str | None = None) -> list[Predicted]:
    """Each row's supervised tokens, in order. end: what is learnt after a response.

    Raises Stopped between two batches where a signal came.
    """
    import torch

    from ift.data.batches import IGNORE_INDEX, collate_unpadded, targets_of
    from ift.data.text_size import supervised_bytes
    from ift.model.layouts import Flat
    from ift.model.linear import prepared

    model = subject.model.eval()
    order = sorted(range(len(examples)), key=lambda number: examples[number].tokens)
    found: dict[int, Predicted] = {}
    with torch.inference_mode(), prepared(model), progress(title, len(examples), "rows") as advance:
        for batch in _batches(order, [example.tokens for example in examples]):
            stops.check("between two batches of test rows")
            rows = [examples[number] for number in batch]
            flat = collate_unpadded(rows, end_of_text=end)
            assert flat.lengths
            supervised = flat.supervised.to(model.device)
            hidden = model.hidden(flat.input_ids.to(model.device), Flat(flat.lengths), supervised)
            learnt = flat.targets[flat.supervised].to(model.device)
            tiles = zip(torch.split(hidden, TILE), torch.split(learnt, TILE), strict=True)
            values = [_of_tile(model.logits(part, every_id=True), target) for part, target in tiles]
            loss, confidence, right = (np.concatenate(parts) for parts in zip(*values, strict=True))
            begin = 0
            for number, row in zip(batch, rows, strict=True):
                targets = targets_of(row, end)
                tokens = targets[targets != IGNORE_INDEX].tolist()
                part = slice(begin, begin + len(tokens))
                size = supervised_bytes(tokens, subject.tokenizer)
                found[number] = Predicted(loss[part], confidence[part], right[part], size)
                begin += len(tokens)
            advance(len(batch))
    return [found[number] for number in range(len(examples))]


def _batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    tokens = 0
    for number in order:
        if batch and tokens + lengths[number] > BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += lengths[number]
    yield batch


def _of_tile(logits: Any, targets: Any) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """(S, V) logits and (S,) targets -> loss, probability of the first choice, whether that is the target."""
    logits = logits.float()
    total = logits.logsumexp(dim=-1)
    largest, choice = logits.max(dim=-1)
    loss = total - logits.gather(-1, targets[:, None])[:, 0]
    return (
        loss.double().cpu().numpy(),
        (largest - total).exp().double().cpu().numpy(),
        (choice == targets).cpu().numpy(),
    )


# -- numbers -----------------------------------------------------------------------------------------------------------


def joined(predicted: Sequence[Predicted]) -> tuple[Floats, NDArray[np.bool_]]:
    """(S,) confidence and (S,) right of all tokens."""
    return np.concatenate([p.confidence for p in predicted]), np.concatenate([p.right for p in predicted])


def scores_of(predicted: Sequence[Predicted], *, model: str) -> list[Score]:
    rows = len(predicted)
    loss = np.array([p.loss.sum() for p in predicted])
    tokens, size = (
        np.array(counts, dtype=float) for counts in zip(*((len(p.loss), p.bytes) for p in predicted), strict=True)
    )
    right = np.array([p.right.sum() for p in predicted], dtype=float)
    sure = np.array([p.confidence.sum() for p in predicted])
    mean, low, high = ratio_interval(loss, tokens, least=0.0)
    answers = mean_interval(loss / tokens, POSITIVE)
    in_bytes = mean_interval([bits for p in predicted if (bits := p.bits_per_byte) is not None], POSITIVE)
    confidence, is_right = joined(predicted)
    numbers: list[tuple[str, tuple[float, float | None, float | None], bool]] = [
        ("perplexity", (math.exp(mean), _exp(low), _exp(high)), False),
        ("bits_per_byte", ratio_interval(loss / math.log(2), size, least=0.0), False),
        ("accuracy", ratio_interval(right, tokens, least=0.0, most=1.0), True),
        ("calibration_error", (calibration_error(confidence, is_right), None, None), False),
        ("confidence", ratio_interval(sure, tokens, least=0.0, most=1.0), True),
        ("answer_loss", (answers.mean, answers.low, answers.high), False),
        (IN_BYTES, (in_bytes.mean, in_bytes.low, in_bytes.high), False),
    ]
    return [
        Score(
            task=TASK,
            metric=metric,
            value=value,
            n=in_bytes.n if metric == IN_BYTES else rows,
            low=None if low is None or not math.isfinite(low) else low,
            high=None if high is None or not math.isfinite(high) else high,
            model=model,
            prompt=PROMPT,
            higher_is_better=higher,
        )
        for metric, (value, low, high), higher in numbers
    ]


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def ratio_interval(
    sums: ArrayLike, counts: ArrayLike, *, least: float = -math.inf, most: float = math.inf
) -> tuple[float, float | None, float | None]:
    """sum(sums) / sum(counts) and its 95 % interval over rows, both (n,): the ratio estimator's (Cochran 1977, 6.4).

    None for its ends where a single row says nothing of others, or where all rows have the same ratio, which says
    nothing of the spread. least, most: what the ratio can be.
    """
    from scipy import stats

    x, y = np.asarray(counts, dtype=float), np.asarray(sums, dtype=float)
    n = len(x)
    if not x.sum():
        return math.nan, None, None
    ratio = float(y.sum() / x.sum())
    if n < 2:
        return ratio, None, None
    error = math.sqrt(n / (n - 1) * float(((y - ratio * x) ** 2).sum())) / float(x.sum())
    if error <= 1e-9 * abs(ratio):
        return ratio, None, None
    half = float(stats.t.ppf(0.975, n - 1)) * error
    return ratio, max(least, ratio - half), min(most, ratio + half)


def reliability(confidence: ArrayLike, right: ArrayLike) -> list[dict[str, Any]]:
    """The reliability curve: for each bin that holds tokens its borders, their number, mean confidence and accuracy."""
    sure, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    place = bins_of(sure)
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "tokens": int((place == number).sum()),
            "confidence": float(sure[place == number].mean()),
            "accuracy": float(hit[place == number].mean()),
        }
        for number in np.unique(place).tolist()
    ]


def bins_of(confidence: Floats) -> NDArray[np.int64]:
    """Number of each token's bin; a bin holds its upper end, as in Guo et al."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def calibration_error(confidence: ArrayLike, right: ArrayLike) -> float:
    """Expected calibration error of (S,) confidences and (S,) outcomes, from 0 to 1."""
    sure, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    gaps = np.bincount(bins_of(sure), weights=sure - hit, minlength=BINS)
    return float(np.abs(gaps).sum() / len(sure))


def error_by_chance(confidence: Floats, *, seed: int = 0) -> tuple[float, float]:
    """Mean and 95 % point of the error of a model that is right exactly as often as it is sure: it is never 0.

    Outcomes are drawn from the confidences (consistency resampling, Bröcker and Smith 2007), tokens independently.
    """
    draws, place = np.random.default_rng(seed), bins_of(confidence)
    errors = []
    for _ in range(DRAWS):
        gaps = np.bincount(place, weights=confidence - (draws.random(len(place)) < confidence), minlength=BINS)
        errors.append(float(np.abs(gaps).sum()) / len(place))
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))


def overconfidence(predicted: Sequence[Predicted]) -> tuple[float, float | None, float | None]:
    """Mean confidence less accuracy of all tokens, with its 95 % interval over rows; below 0 for too little of it."""
    return ratio_interval(
        [p.confidence.sum() - p.right.sum() for p in predicted],
        [len(p.right) for p in predicted],
        least=-1.0,
        most=1.0,
    )


def _notes(label: str, predicted: Sequence[Predicted], *, left_out: int) -> list[str]:
    confidence, right = joined(predicted)
    mean, most = error_by_chance(confidence)
    who = "Tuned" if label == "tuned" else "Base"
    over, low, high = overconfidence(predicted)
    between = "" if low is None or high is None else f" ({low:+.3f} to {high:+.3f})"
    curve = ", ".join(
        f"{each['confidence']:.2f}: {each['accuracy']:.2f} ({each['tokens']:,})"
        for each in reliability(confidence, right)
    )
    notes = [
        f"{who} model, {len(right):,} supervised tokens, confidence less accuracy {over:+.3f}{between}. One that is "
        f"right exactly as often as it is sure would show a calibration error of {mean:.3f} here, and above {most:.3f} "
        "once in 20.",
        f"{who} model, confidence: accuracy (tokens) of each bin: {curve}.",
    ]
    if left_out:
        notes.append(f"{who} model: {left_out:,} test rows are left out, as too long or without a token with a loss.")
    return notes


def _sample(number: int, row: Row, predicted: Predicted, template: Template, *, model: str) -> dict[str, Any]:
    right, tokens = float(predicted.right.mean()), len(predicted.loss)
    return {
        "task": TASK,
        "doc_id": number,
        "model": model,
        "prompt_form": PROMPT,
        "prompt": row.prompt,
        "target": template.reference(row),
        "tokens": tokens,
        "bytes": predicted.bytes,
        "metrics": {"answer_loss": float(predicted.loss.mean()), IN_BYTES: predicted.bits_per_byte},
        "accuracy": right,
        "confidence": float(predicted.confidence.mean()),
    }
