"""Perplexity, bits per byte and calibration of the test split, against torchmetrics and plain loops."""

import json
import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from ift.data.contract.examples import make_example
from ift.data.demo import demo_rows
from ift.data.reading.rows import Row, read_stored_rows
from ift.entry import settings_from
from ift.errors import ConfigError, DataError
from ift.evaluation import calibration
from ift.evaluation.calibration import calibration_error, error_by_chance, ratio_interval, reliability
from ift.evaluation.subject import Bench, Subject
from ift.run import read_json, read_jsonl
from ift.settings import EvaluateSettings
from tests.running import ROOT
from tests.tiny_run import make_run

ROWS = 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, settings_of):
    run = make_run(tmp_path_factory.mktemp("calibration") / "run", settings_of)
    rows = [
        Row(row["instruction"], row["input"], row["output"], file="demo", number=number)
        for number, row in enumerate(demo_rows(60, seed=0)[:ROWS], start=1)
    ]
    run.test_rows.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    return run


@pytest.fixture
def bench_of(tiny):
    def bench_of(*overrides: str) -> Bench:
        words = [f"run={tiny.path}", "eval=calibration", "accelerator=cpu", *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return Bench(tiny, settings_from(compose("evaluate", words), EvaluateSettings))

    return bench_of


def plainly(subject: Subject, template, rows) -> list[list[tuple[float, float, bool, int]]]:
    """Loss, confidence, whether it is right, and the token, of each supervised token, one row and token at a time."""
    found = []
    for row in rows:
        example = make_example(row, template, subject.tokenizer, max_length=256, too_long="drop")
        ids = [*example.ids.tolist(), subject.tokenizer.end_of_text]
        counts = [*example.supervised.tolist(), example.ends]
        with torch.no_grad():
            logits = subject.model(torch.tensor([ids[:-1]]))[0].double()
        tokens = []
        for place in range(1, len(ids)):
            if counts[place]:
                chances = torch.softmax(logits[place - 1], dim=-1)
                best = int(chances.argmax())
                tokens.append((-math.log(chances[ids[place]]), float(chances[best]), best == ids[place], ids[place]))
        found.append(tokens)
    return found


def template_text(subject: Subject, row: Row) -> str:
    return "".join(piece.text for piece in subject.template.pieces(row) if piece.supervised)


def test_every_number_is_that_of_a_plain_loop_over_tokens(tiny, bench_of):
    bench = bench_of()
    subject, rows = bench.tuned, read_stored_rows(tiny.test_rows)
    outcome = calibration.evaluate(bench)
    found = {score.metric: score for score in outcome.scores}
    by_row = plainly(subject, subject.template, rows)
    tokens = [token for row in by_row for token in row]
    losses = [loss for loss, *_ in tokens]
    end = subject.tokenizer.end_of_text
    text = b"".join(subject.tokenizer.decode([t for *_, t in row if t != end]).encode() for row in by_row)
    assert outcome.about["tokens"]["tuned"] == len(tokens)
    assert outcome.about["bytes"]["tuned"] == len(text)
    assert found["perplexity"].value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert found["bits_per_byte"].value == pytest.approx(sum(losses) / math.log(2) / len(text), rel=1e-5)
    assert found["accuracy"].value == pytest.approx(np.mean([right for *_, right, _ in tokens]))
    assert found["answer_loss"].value == pytest.approx(
        np.mean([np.mean([t[0] for t in row]) for row in by_row]), rel=1e-5
    )
    in_bytes = [
        sum(t[0] for t in row) / math.log(2) / len(template_text(subject, read).encode())
        for row, read in zip(by_row, rows, strict=True)
    ]
    assert [line["metrics"]["answer_bits_per_byte"] for line in outcome.samples] == pytest.approx(in_bytes, rel=1e-5)
    assert found["answer_bits_per_byte"].value == pytest.approx(np.mean(in_bytes), rel=1e-5)
    sure, right = np.array([t[1] for t in tokens]), np.array([t[2] for t in tokens])
    assert found["confidence"].value == pytest.approx(sure.mean(), abs=1e-6)
    assert f"confidence less accuracy {sure.mean() - right.mean():+.3f} (" in outcome.notes[0]
    assert found["calibration_error"].value == pytest.approx(calibration_error(sure, right), abs=1e-6)
    for name in ("perplexity", "bits_per_byte", "accuracy", "confidence", "answer_loss"):
        assert found[name].low < found[name].value < found[name].high
        assert found[name].n == ROWS
    assert [line["metrics"]["answer_loss"] for line in outcome.samples] == pytest.approx(
        [np.mean([t[0] for t in row]) for row in by_row], rel=1e-5
    )
    assert sum(each["tokens"] for each in outcome.about["reliability"]["tuned"]) == len(tokens)


def test_the_loss_is_the_one_that_training_reports(tiny, bench_of):
    """Summed cross-entropy over the supervised tokens of a padded batch, as the module computes test_loss."""
    from ift.data.batches import collate_padded

    bench = bench_of()
    subject, rows = bench.tuned, read_stored_rows(tiny.test_rows)
    examples = [make_example(r, subject.template, subject.tokenizer, max_length=256, too_long="drop") for r in rows]
    batch = collate_padded(examples, end_of_text=subject.tokenizer.end_of_text)
    with torch.no_grad():
        hidden = subject.model.hidden(batch.input_ids).flatten(0, 1)[batch.supervised]
        targets = batch.targets.flatten()[batch.supervised]
        total, _ = subject.model.loss(hidden, targets)
    [perplexity, *_] = calibration.evaluate(bench).scores
    assert math.log(perplexity.value) == pytest.approx(float(total) / len(targets), rel=1e-5)


def test_the_calibration_error_is_torchmetrics_s():
    from torchmetrics.functional.classification import binary_calibration_error

    draws = np.random.default_rng(0)
    for n in (1, 7, 500):
        sure = draws.uniform(0.001, 0.999, n).astype(np.float32)
        right = draws.random(n) < sure**2
        # of a yes or no question torchmetrics takes the probability of yes as the confidence, and the label as accuracy
        theirs = binary_calibration_error(torch.tensor(sure), torch.tensor(right).long(), n_bins=15, norm="l1")
        assert calibration_error(sure, right) == pytest.approx(float(theirs), abs=1e-6)


def test_a_curve_by_hand():
    curve = reliability([0.5, 0.5, 0.98, 1.0], [1, 0, 1, 1])
    assert curve == [
        {"low": 7 / 15, "high": 8 / 15, "tokens": 2, "confidence": 0.5, "accuracy": 0.5},
        {"low": 14 / 15, "high": 1.0, "tokens": 2, "confidence": 0.99, "accuracy": 1.0},
    ]
    assert calibration_error([0.5, 0.5, 0.98, 1.0], [1, 0, 1, 1]) == pytest.approx(0.02 / 4)


def test_one_that_is_as_often_right_as_it_is_sure_stays_below_what_chance_gives():
    draws = np.random.default_rng(1)
    sure = draws.uniform(0.1, 1, 3_000)
    mean, most = error_by_chance(sure)
    errors = [calibration_error(sure, draws.random(3_000) < sure) for _ in range(200)]
    assert np.mean(errors) == pytest.approx(mean, rel=0.1)
    assert np.mean(np.array(errors) > most) == pytest.approx(0.05, abs=0.05)


@pytest.mark.parametrize("rows", [10, 50])
def test_the_interval_of_a_ratio_covers_where_rows_differ_in_length(rows):
    """Tokens of one row are alike; 0.25 of them are right in truth."""
    draws, covered, trials = np.random.default_rng(2), 0, 1_000
    for _ in range(trials):
        counts = draws.integers(1, 30, rows)
        right = draws.binomial(counts, np.clip(draws.normal(0.25, 0.1, rows), 0, 1))
        _, low, high = ratio_interval(right, counts, least=0.0, most=1.0)
        covered += low <= 0.25 <= high
    assert 0.91 < covered / trials < 0.98


def test_a_single_row_has_no_interval_and_no_end_lies_where_the_number_cannot():
    assert ratio_interval([3.0], [4.0]) == (0.75, None, None)
    assert ratio_interval([4.0, 7.0, 9.0], [4.0, 7.0, 9.0]) == (1.0, None, None)  # all right: not certain
    assert ratio_interval([0.0] * 5, [4.0] * 5) == (0.0, None, None)
    _, low, high = ratio_interval([1.0, 9.0], [10.0, 10.0], least=0.0, most=1.0)
    assert (low, high) == (0.0, 1.0)


def test_the_base_model_is_compared_on_the_same_rows(bench_of, monkeypatch):
    bench = bench_of("eval.base=true", "eval.limit=12")
    tuned, worse = bench.tuned, bench_of().tuned.model
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in worse.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    bench.__dict__["base"] = Subject("base", worse, tuned.tokenizer, None)
    outcome = calibration.evaluate(bench)
    [difference] = outcome.about["against_base"]
    losses = {
        label: np.array([s["metrics"]["answer_loss"] for s in outcome.samples if s["model"] == label])
        for label in ("tuned", "base")
    }
    assert difference["n"] == 12
    assert difference["difference"] == pytest.approx((losses["tuned"] - losses["base"]).mean())
    assert difference["verdict"] == "better"  # a lower loss
    assert outcome.notes[0] == "The first 12 of 20 test rows. eval.limit=null asks all."
    assert outcome.notes[-1].startswith(
        "Tuned against base on the same questions, one test: better in test answer_loss template (-"
    )


def test_what_would_have_no_effect_or_has_nothing_to_measure_is_an_error(tiny, bench_of, tmp_path, settings_of):
    with pytest.raises(ConfigError, match=r"eval\.num_fewshot=2: nothing is asked here"):
        calibration.evaluate(bench_of("eval.num_fewshot=2"))
    empty = make_run(tmp_path / "empty", settings_of)
    bench = bench_of()
    bench.settings.run = str(empty.path)
    with pytest.raises(DataError, match=r"test\.jsonl: no test rows"):
        calibration.evaluate(bench)


def test_from_the_command_line(tiny, warm):
    done = warm.run("evaluate.py", f"run={tiny.path}", "eval=calibration", "accelerator=cpu")
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    results = read_json(tiny.evals / "calibration/results.json")
    assert results["reliability"]["tuned"]
    assert len(read_jsonl(tiny.evals / "calibration/samples.jsonl")) == ROWS
    assert "calibration_error" in tiny.report.read_text()
