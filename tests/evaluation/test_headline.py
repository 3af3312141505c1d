"""The few numbers of a run that a card shows, with their intervals."""

import pytest
from scipy import stats

from ift.evaluation.headline import headline
from ift.evaluation.results import write_results
from ift.run import RunFolder, write_jsonl


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


def test_answers_have_wilson_s_interval_and_a_mean_its_own(run):
    rows = [("a b", "a b"), ("a", "a b"), ("x", "y"), ("z", "z")]
    write_jsonl(run.responses, [{"instruction": "i", "reference": right, "response": said} for said, right in rows])
    exact, rouge = (
        next(score for score in headline(run) if score["metric"] == name) for name in ("exact_match", "rouge_l")
    )
    assert (exact["task"], exact["metric"], exact["value"], exact["n"]) == ("test split", "exact_match", 0.5, 4)
    wilson = stats.binomtest(2, 4).proportion_ci(method="wilson")
    assert (exact["low"], exact["high"]) == pytest.approx((wilson.low, wilson.high))
    assert rouge["value"] == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)  # of "a" in "a b": precision 1, recall a half


def test_known_evaluations_are_there_and_what_is_damaged_is_not(run):
    score = {"task": "mmlu", "metric": "acc", "value": 0.3, "n": 50, "low": 0.2, "high": 0.4}
    for name in ("mmlu", "damaged"):
        (run.evals / name).mkdir(parents=True)
    write_results(
        run.evals / "mmlu" / "results.json",
        {"scores": [score, {**score, "task": "part", "headline": False}], "notes": []},
    )
    (run.evals / "damaged" / "results.json").write_text("{")
    run.responses.write_text("not JSON")
    [found] = headline(run)
    assert {key: found[key] for key in score} == score
    assert headline(RunFolder(run.path / "none")) == []
