"""The page of a comparison: its numbers are the statistics', its words only what tests support, in a real browser."""

import csv
import html
import json
import random
import re
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir

from ift.commands.evaluate import evaluate
from ift.entry import settings_from
from ift.errors import ConfigError, DataError
from ift.evaluation.answers import aligned, open_answers
from ift.evaluation.people import Rating, Ratings
from ift.evaluation.statistics import SHARE, agreement, compare_pairs, mean_interval
from ift.pages.comparison import compare, scale
from ift.pages.configs import differing
from ift.pages.measures import Line, Metric, agreements, row_metrics
from ift.pages.plots import curves_drawing, round_ticks
from ift.pages.runs import names_apart, open_runs
from ift.run import RunFolder, write_json, write_jsonl
from ift.settings import EvaluateSettings
from ift.training.weights_and_biases import records
from tests.evaluation.judge.judge_server import JudgeServer
from tests.running import ROOT


@pytest.fixture
def a_run(tmp_path):
    """a_run(name, right): a run that gave the reference where right says so; with curves, settings and a summary."""

    def a_run(name, right, *, lr=0.001, judge=None, valid=True, folder=tmp_path):
        run = RunFolder(folder / name)
        run.path.mkdir(parents=True)
        rows = [
            {"instruction": f"Task {i}", "input": "", "reference": f"the answer {i}", "category": "ab"[i % 2]}
            | {"response": f"the answer {i}" if good else "no idea at all", "stop_reason": "end"}
            for i, good in enumerate(right)
        ]
        write_jsonl(run.responses, rows)
        steps = [
            {"step": i, "train/loss": 3 - i / 10, **({"val/loss": 3.1 - i / 10} if i % 5 == 0 else {})}
            for i in range(21)
        ]
        write_jsonl(run.metrics, steps)
        write_json(run.summary, {"val_loss": 1.1, "status": "finished", "choices": f"optim.lr={lr}"})
        run.config.write_text(f"optim:\n  lr: {lr}\nseed: 1\noutput_dir: {run.path}\n")
        if judge:
            folder = run.evals / "judge-score-m"
            folder.mkdir(parents=True)
            answers = open_answers(run.path).rows
            scores = [judge(i, good) for i, good in enumerate(right)]
            write_json(folder / "results.json", {"scale": [0, 100], "valid": valid, "judge": {"against": None}})
            samples = [{"key": a.key, "score": s, "reason": "because"} for a, s in zip(answers, scores, strict=True)]
            write_jsonl(folder / "samples.jsonl", samples)
        return run

    return a_run


def said(page):
    """What a person reads: without the exports of its tables."""
    text = re.sub(r"<textarea.*?</textarea>", "", page.read_text(), flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text)))


def cards(page):
    return said(page).split("What may be said")[1]


def test_the_numbers_are_those_of_the_statistics_and_only_a_settled_difference_has_a_word(a_run, tmp_path):
    one = [i % 2 == 0 for i in range(60)]
    two = [i % 2 == 0 or i % 3 == 0 for i in range(60)]  # ten more, none less
    a_run("one", one)
    a_run("two", two, lr=0.002)
    page = tmp_path / "page.html"
    lines = compare([tmp_path / "one", tmp_path / "two"], page)
    test, estimate = (
        compare_pairs([float(x) for x in one], [float(x) for x in two], SHARE),
        mean_interval([float(x) for x in two], SHARE),
    )
    assert (test.wins, test.losses, test.p) == (10, 0, 2 / 2**10)
    text = said(page)
    assert f"{estimate.mean:.1%} {estimate.low:.1%} to {estimate.high:.1%} better +16.7%" in text
    # three of four tests on the page are real: exact match, ROUGE-L and chrF; "ended by itself" is the same in both
    assert "Holm's correction for the 4 tests on this page" in text
    assert f"p = {4 * test.p:.2g}" in text
    assert any(f"better: +16.7% (95 %: {test.low:+.1%} to {test.high:+.1%}; p = 0.0078)" in line for line in lines)
    assert "optim.lr 0.001 0.002" in text  # and no other setting differs
    assert "output_dir" not in text


def test_what_is_not_settled_says_how_many_rows_would_settle_it(a_run, tmp_path):
    rng = random.Random(1)
    a_run("one", [rng.random() < 0.5 for _ in range(40)])
    a_run("two", [rng.random() < 0.5 for _ in range(40)])
    lines = "\n".join(compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html"))
    text = said(tmp_path / "page.html")
    assert not re.search(r"\b(better|worse)\b (\+|−)", text)
    assert re.search(r"not settled: .*; about [\d,]+ rows would settle it", lines)
    assert re.search(r"not settled . ?[\d.]+% .* about [\d,]+ rows would settle a difference of this size", text)


def test_a_judge_that_is_not_believed_settles_nothing(a_run, tmp_path):
    score = lambda i, good: 90 + i % 7 if good else 20 + i % 7  # noqa: E731
    a_run("one", [False] * 40, judge=score)
    a_run("two", [True] * 40, judge=score, valid=False)
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert "judge: score-m INVALID: this judge failed its canaries" in cards(tmp_path / "page.html")
    section = cards(tmp_path / "page.html").split("judge: score-m")[1].split("exact match")[0]
    assert not re.search("better|worse|settled", section)
    write_json(tmp_path / "two/evals/judge-score-m/results.json", {"scale": [0, 100], "valid": True})
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert re.search(r"judge: score-m 0 to 100 .* better \+70.00", said(tmp_path / "page.html"))


def test_a_pairwise_verdict_between_two_of_the_runs_is_shown_and_another_is_not(a_run, tmp_path):
    for name in ("one", "two"):
        a_run(name, [True] * 10)
    results = {"scale": [0, 1], "mean": 0.75, "wins": 6, "ties": 3, "losses": 1, "scored": 10, "rows": 10, "p": 0.125}
    results |= {"verdict": "not settled", "orders_agree": 0.9, "valid": True}
    for against in ("one", "three"):
        folder = tmp_path / f"two/evals/judge-pairwise-m-vs-{against}"
        folder.mkdir(parents=True)
        write_json(folder / "results.json", {**results, "judge": {"against": against}})
        write_jsonl(folder / "samples.jsonl", [])
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    text = said(tmp_path / "page.html")
    assert "two against one: 75.0% (6 won, 3 tied, 1 lost, scored 10 of 10; both orders agree on 90%)" in text
    assert "against three" not in text


def test_losses_of_other_rows_tokenizers_and_prompts_never_stand_side_by_side_without_a_word(a_run, tmp_path):
    reports = {"tokenizer": ("gpt2", "bytes"), "prompt_hash": ("a" * 16, "b" * 16), "max_length": (512, 512)}
    for name, question, which in (("one", "Task 1", 0), ("two", "Task 2", 1)):
        run = a_run(name, [True] * 8)
        write_jsonl(run.test_rows, [{"instruction": question}])
        write_json(run.data_report, {"prompt": "alpaca", **{key: values[which] for key, values in reports.items()}})
    page, begins = tmp_path / "page.html", "losses of whole runs cannot be held against each other: not the same"
    lines = [line for line in compare([tmp_path / "one", tmp_path / "two"], page) if line.startswith("warning")]
    assert lines[1:] == [
        f"warning   {begins} test rows (A: one; B: two)",
        f"warning   {begins} tokenizer (gpt2: one; bytes: two). None of these runs was measured in bits per byte, "
        "which can be (evaluate.py eval=calibration does)",
        f"warning   {begins} prompt (alpaca aaaaaa: one; alpaca bbbbbb: two)",
    ]
    text = said(page)
    assert all(line.removeprefix("warning   ") in text for line in lines)
    assert "one 1.1 per token: not comparable A gpt2 alpaca aaaaaa" in text
    assert "two 1.1 per token: not comparable B bytes alpaca bbbbbb" in text
    write_jsonl(RunFolder(tmp_path / "two").test_rows, [{"instruction": "Task 1"}])
    assert "test rows" not in "".join(compare([tmp_path / "one", tmp_path / "two"], page))
    write_json(RunFolder(tmp_path / "two").summary, {})
    write_json(RunFolder(tmp_path / "one").summary, {})
    assert begins not in "".join(compare([tmp_path / "one", tmp_path / "two"], page))  # there is no loss


def test_of_other_tokenizers_bits_per_byte_are_compared_and_no_loss_is(a_run, tmp_path):
    """The loss of one is lower, since its tokens are shorter; in bits per byte the other is better."""
    page, runs = tmp_path / "page.html", []
    for name, tokens, loss, bits in (("one", "long", 3.0, 1.0), ("two", "short", 1.0, 2.0)):
        run = a_run(name, [True] * 8)
        runs.append(run)
        write_json(run.data_report, {"tokenizer": tokens, "fingerprint": "f", "splits": {}})
        losses = {f"{split}_loss": loss for split in ("val", "test")}
        in_bytes = {f"{split}_bits_per_byte": bits for split in ("val", "test")} | {"val_bytes": 100, "test_bytes": 90}
        write_json(run.summary, {**losses, **in_bytes})
        write_jsonl(run.metrics, [{"step": 0, "tokens": 0, "val/loss": loss, "val/bits_per_byte": bits}])
        numbers = {"answer_loss": (loss, loss / 10), "answer_bits_per_byte": (bits, bits / 10)}
        scores = [
            {"task": "test", "metric": metric, "value": value, "n": 8, "prompt": "template", "higher_is_better": False}
            for metric, (value, _) in numbers.items()
        ]
        (run.evals / "calibration").mkdir(parents=True)
        write_json(run.evals / "calibration/results.json", {"scores": scores, "notes": [], "versions": {}})
        samples = [
            {"task": "test", "doc_id": i, "model": "tuned", "prompt_form": "template", "prompt": f"Q{i}", "target": "A"}
            | {"metrics": {metric: mean + (i - 3.5) * wide for metric, (mean, wide) in numbers.items()}}
            for i in range(8)
        ]
        write_jsonl(run.evals / "calibration/samples.jsonl", samples)
    lines = compare([run.path for run in runs], page, tables=tmp_path / "tables")
    assert any(line.endswith("tokenizer (long: one; short: two). Bits per byte can be") for line in lines)
    text = said(page)
    assert "two 2 2 1 per token: not comparable 1 per token: not comparable short" in text
    assert "test answer_loss (template) not comparable: it is per token, and the runs have not one tokenizer" in text
    with (tmp_path / "tables/tests.csv").open() as file:
        verdicts = {line["number"]: line["verdict"] for line in csv.DictReader(file)}
    assert "calibration: test answer_loss (template)" not in verdicts
    assert verdicts["calibration: test answer_bits_per_byte (template)"] == "worse"
    assert "step 0: bits per byte 2.0000" in text
    assert "step 0: validation loss" not in text

    write_json(
        runs[1].summary, {"val_loss": 1.0, "test_loss": 1.0}
    )  # a run of a release that did not measure them: nothing is made up
    write_jsonl(runs[1].metrics, [{"step": 0, "tokens": 0, "val/loss": 1.0}])
    lines = compare([run.path for run in runs], page)
    what = "Bits per byte can be, and two has none (evaluate.py eval=calibration measures them)"
    assert any(line.endswith(what) for line in lines)
    text = said(page)
    assert "two – – 1 per token: not comparable 1 per token: not comparable short" in text
    assert "These runs have not one tokenizer: the height of one curve says nothing" in text


def test_scores_that_were_counted_in_another_way_are_told_apart(a_run, tmp_path):
    now = {"bleu": 0.5, "chrf": 0.25, "bleu_low": 0.4, "bleu_high": 0.6, "scoring": "BLEU 13a"}
    for name, summary in (("one", now), ("two", {"bleu": 0.75})):
        write_json(a_run(name, [True] * 30).summary, summary)
    words = "BLEU of whole runs was counted in another way in two"
    page = tmp_path / "page.html"
    assert any(words in line for line in compare([tmp_path / "one", tmp_path / "two"], page))
    assert words in said(page)
    assert "0.25 0.5 0.4 to 0.6" in said(page)
    write_json(tmp_path / "two/summary.json", {**now, "bleu_low": "x"})
    assert not any(words in line for line in compare([tmp_path / "one", tmp_path / "two"], page))


def test_judges_and_people_are_held_against_each_other(a_run, tmp_path):
    run_of = a_run("one", [i % 2 == 0 for i in range(20)], judge=lambda i, good: 80 + i if good else 10 + i)
    ratings, stars = Ratings(run_of.ratings), []
    for i, row in enumerate(open_answers(run_of.path).rows):
        stars.append(1 + i % 5)
        ratings.set(row.key, Rating("right" if i % 4 == 0 else "wrong", stars[-1]))
    a_run("two", [True] * 20)
    found = agreements(open_runs([tmp_path / "one", tmp_path / "two"]))
    assert [(name, one, other, a.n) for name, one, other, a in found] == [
        ("one", "judge score-m", "people: right", 20),
        ("one", "judge score-m", "people: stars", 20),
    ]
    scores = [(80 + i if i % 2 == 0 else 10 + i) / 100 for i in range(20)]
    assert found[1][3] == agreement(scores, [(s - 1) / 4 for s in stars], levels=5)
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert f"one judge score-m and people: stars 20 {found[1][3].pearson:.3f}" in said(tmp_path / "page.html")


def test_two_people_are_held_against_each_other_and_an_answer_counts_once(a_run, tmp_path):
    run_of = a_run("one", [True] * 12)
    ratings = Ratings(run_of.ratings)
    for i, row in enumerate(open_answers(run_of.path).rows):
        ratings.set(row.key, Rating("right" if i % 2 else "wrong"), "anna")
        if i < 8:
            ratings.set(row.key, Rating("right" if i in (1, 2, 3, 5, 7) else "wrong"), "ben")
    a_run("two", [True] * 12)
    runs = open_runs([tmp_path / "one", tmp_path / "two"])
    [(name, one, other, measured)] = agreements(runs)
    assert (name, one, other, measured.n) == ("one", "people, anna: right", "people, ben: right", 8)
    assert measured.kappa == pytest.approx(
        1 - (1 / 8) / (4 / 8 * 3 / 8 + 4 / 8 * 5 / 8)
    )  # by hand: one of eight differs
    [right] = [m for m in row_metrics(runs, aligned([run.answers for run in runs])) if m.name == "people: right"]
    assert right.values[0][:4] == [0.0, 1.0, 0.5, 1.0]


def test_rows_are_sorted_filtered_and_found_in_the_browser(browser, a_run, tmp_path):
    a_run("one", [i < 10 for i in range(30)])
    a_run("two", [i >= 5 for i in range(30)])
    page = tmp_path / "page.html"
    compare([tmp_path / "one", tmp_path / "two"], page)
    browser.open(page.as_uri())

    def shown(**values):
        for name, value in values.items():
            browser.js(
                f"(() => {{ const e = document.getElementById('{name}'); e.value = {json.dumps(value)};"
                "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
            )
        while browser.js("!document.getElementById('more').hidden"):
            browser.js("document.getElementById('more').click()")
        rows = browser.js("[...document.querySelectorAll('.row:not([hidden]) .ask .text')].map(e => e.textContent)")
        assert browser.js("document.getElementById('count').textContent") == f"{len(rows)} of 30"
        return [int(row.removeprefix("Task ")) for row in rows]

    assert shown() == list(range(30))
    assert shown(show="last") == list(range(10, 30))
    assert shown(show="first") == [0, 1, 2, 3, 4]
    assert shown(show="differ", category="b") == [*range(1, 5, 2), *range(11, 30, 2)]
    assert shown(show="equal", category="") == [5, 6, 7, 8, 9]
    assert shown(show="all", sort="gain")[:3] == [10, 11, 12]
    assert shown(sort="loss")[:3] == [0, 1, 2]
    assert shown(sort="low")[:3] == [10, 11, 12]
    assert shown(search="TASK 27") == [27]
    assert browser.js("document.querySelector('.row:not([hidden]) .r0 i').textContent") == "no idea at all"
    assert browser.complaints == []
    assert browser.requests == [page.as_uri()]
    width = "document.documentElement.scrollWidth"
    browser.do("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    try:
        assert browser.js(width) == 360  # a phone need not scroll sideways
    finally:
        browser.do("Emulation.clearDeviceMetricsOverride")


def test_curves_of_runs_of_different_length_share_their_axes(a_run, tmp_path):
    a_run("one", [True])
    write_jsonl(a_run("two", [True]).metrics, [{"step": 0, "val/loss": 9.0}, {"step": 40, "val/loss": 0.2, "lr": None}])
    drawn = curves_drawing([run.metrics for run in open_runs([tmp_path / "one", tmp_path / "two"])])
    assert [r["best"] for r in drawn["runs"]] == [(20, pytest.approx(1.1)), (40, 0.2)]
    assert [r["dots"][-1][0] for r in drawn["runs"]] == [480, 960]  # step 20 of 40, and 40
    assert drawn["logarithmic"]  # 9 is more than 20 times 0.2
    assert "0.5" in [label for _, label in drawn["y_ticks"]]
    assert round_ticks(0, 1.2, 4) == [0, 0.5, 1]
    assert curves_drawing([open_runs([tmp_path / "one"] * 2)[0].metrics])["logarithmic"] is False


def test_equal_names_get_as_much_of_their_folders_as_it_takes():
    assert names_apart(["a/x/0", "a/y/0", "b/1"], ["0", "0", "1"]) == ["x/0", "y/0", "1"]
    assert names_apart(["a/0", "a/0"], ["0", "0"])[1].endswith("0 (2)")


def test_a_run_that_was_stopped_and_files_of_other_tools_can_be_compared(a_run, tmp_path, write):
    a_run("one", [True, False])
    a_run("two", [True, False]).responses.unlink()
    lines = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert "2 runs on 0 rows that all answered" in lines[0]
    assert lines[1] == "warning   no answers of two: only what else there is of it is compared"
    assert "Answers side by side" not in said(tmp_path / "page.html")
    theirs = write(
        "theirs.json", [{"instruction": "Task 1", "input": "", "output": "the answer 1", "model_response": "x"}]
    )
    lines = compare([tmp_path / "one", theirs], tmp_path / "page.html")
    assert "2 runs on 1 rows that all answered" in lines[0]
    assert "(1 more in one)" in said(tmp_path / "page.html")
    # one without answers takes nothing away from those that have some
    a_run("three", [True, True])
    lines = compare([tmp_path / "one", tmp_path / "two", tmp_path / "three"], tmp_path / "page.html")
    assert "3 runs on 2 rows that all answered" in lines[0]
    assert "exact match" in said(tmp_path / "page.html")


def test_runs_without_a_common_row_are_an_error_that_names_why(a_run, tmp_path):
    for name, first, seed in (("one", 0, 1), ("two", 100, 2)):
        run = a_run(name, [True] * 30)
        rows = [{"instruction": f"Task {first + i}", "response": "x", "reference": "y"} for i in range(30)]
        write_jsonl(run.responses, rows)
        run.config.write_text(f"format: 3\ndata:\n  split_seed: {seed}\n")
    places, page = [tmp_path / "one", tmp_path / "two"], tmp_path / "page.html"
    with pytest.raises(DataError) as caught:
        compare(places, page)
    assert str(caught.value).startswith("two: no row that one answered too: data.split_seed=2 and 1 (")
    assert not page.exists()
    a_run("three", [True] * 30)  # has rows in common with one
    with pytest.raises(DataError, match=r"^two: no row that three answered too"):
        compare([tmp_path / "three", *places], page)
    for place in places:  # a known evaluation can be compared all the same
        known(RunFolder(place), [1, 0, 1])
    assert any("answered no row in common" in line for line in compare(places, page))
    assert "Mind: the runs answered no row in common" in said(page)


def test_few_common_rows_are_a_warning_at_the_top(a_run, tmp_path):
    a_run("one", [True] * 100)
    a_run("two", [True] * 30)
    lines = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    words = "only 30 rows were answered by all of these runs, of 100 that one answered"
    assert lines[1].startswith(f"warning   {words}")
    assert said(tmp_path / "page.html").index(words) < said(tmp_path / "page.html").index("exact match")
    a_run("three", [True] * 60)
    assert not any(
        "warning" in line for line in compare([tmp_path / "one", tmp_path / "three"], tmp_path / "page.html")
    )


def test_a_run_that_is_given_twice_is_equal_to_itself(a_run, tmp_path):
    a_run("one", [i % 3 == 0 for i in range(40)])
    lines = compare([tmp_path / "one", tmp_path / "one/."], tmp_path / "page.html")
    assert "given 2 times" in lines[1]
    assert not any(re.search("not settled|better|worse", line) for line in lines)
    assert any("equal: on all 40" in line for line in lines)


def test_two_perfect_scores_are_equal_and_not_said_to_be_unsettled(a_run, tmp_path):
    for name in ("one", "two"):
        a_run(name, [True] * 50)
    lines = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert not any("not settled" in line for line in lines)
    assert "equal in all 50 pairs" in cards(tmp_path / "page.html")
    assert "not settled" not in cards(tmp_path / "page.html")


# -- known evaluations -------------------------------------------------------------------------------------------------


def known(run, right, *, name="triviaqa", ids=None, prompt="Q {}", versions=(), parts=(), **more):
    """An evaluation of a run: right says which of its questions it got."""
    folder = run.evals / name
    folder.mkdir(parents=True, exist_ok=True)
    mean = sum(right) / len(right)
    low, high = max(0, mean - 0.1), min(1, mean + 0.1)
    score = {"task": name, "metric": "acc", "value": mean, "n": len(right), "low": low, "high": high, **more}
    results = {"scores": [score, *parts], "notes": [], "versions": dict(versions)}
    write_json(folder / "results.json", results)
    samples = [
        {"task": name, "doc_id": i, "model": "tuned", "prompt_form": "raw", "prompt": prompt.format(i), "target": "A"}
        | {"metrics": {"acc": float(value)}}
        for i, value in zip(ids or range(len(right)), right, strict=True)
    ]
    write_jsonl(folder / "samples.jsonl", samples)


def test_known_evaluations_are_compared_question_by_question_within_the_one_correction(a_run, tmp_path):
    one, two = [i % 2 for i in range(60)], [int(i % 2 or i % 3 == 0) for i in range(60)]
    for name, right in (("one", one), ("two", two)):
        known(a_run(name, [True] * 30), right)
    page = tmp_path / "page.html"
    lines = compare([tmp_path / "one", tmp_path / "two"], page)
    test = compare_pairs(one, two, SHARE)
    assert (test.wins, test.losses) == (10, 0)
    assert "Holm's correction for the 5 tests" in said(page)  # exact match, ROUGE-L, ended by itself, and this one
    assert f"0.667 0.567 to 0.767, n 60 better +0.167 (+{test.low:.3f} to +{test.high:.3f}), p = {5 * test.p:.2g}" in (
        cards(page)
    )
    assert any(line.startswith("triviaqa acc") for line in lines)
    assert any("better: +0.167" in line for line in lines)


def test_questions_without_a_partner_and_with_another_prompt_are_named(a_run, tmp_path):
    known(a_run("one", [True] * 30), [1, 0, 1, 0])
    known(a_run("two", [True] * 30), [1, 1, 1], ids=[1, 2, 9], prompt="Look: {}", versions={"lm-eval": "0.4.9"}.items())
    page = tmp_path / "page.html"
    lines = "\n".join(compare([tmp_path / "one", tmp_path / "two"], page))
    remark = (
        "3 questions without a partner: triviaqa 0, triviaqa 3, triviaqa 9; 2 of 2 questions were asked with another"
    )
    assert remark in lines
    assert remark in cards(page)
    assert "measured with other versions: lm-eval none and 0.4.9" in cards(page)


def test_a_number_that_is_no_mean_has_its_interval_and_no_test(a_run, tmp_path):
    for name, value in (("one", 0.5), ("two", 0.9)):
        known(a_run(name, [True] * 30), [1, 0, 1, 0], metric="f1", value=value)
    page = tmp_path / "page.html"
    compare([tmp_path / "one", tmp_path / "two"], page)
    section = cards(page).split("triviaqa f1")[1].split("Every test")[0]
    assert "0.900 0.400 to 0.600" in section
    assert "no test: samples.jsonl holds no questions that it is the mean of" in section
    assert "Holm's correction for the 4 tests" in said(page)


def test_parts_and_the_base_model_are_shown_and_not_tested(a_run, tmp_path):
    part = {"task": "triviaqa_history", "metric": "acc", "value": 0.25, "n": 4, "headline": False}
    base = {"task": "triviaqa", "metric": "acc", "value": 0.125, "n": 8, "model": "base"}
    for name in ("one", "two"):
        known(a_run(name, [True] * 30), [1, 0], parts=[part, base])
    page = tmp_path / "page.html"
    compare([tmp_path / "one", tmp_path / "two"], page)
    parts = said(page).split("Parts of evaluations, and the untuned model")[1]
    assert "triviaqa: triviaqa_history acc 0.250 0.250" in parts
    assert "triviaqa acc (base) 0.125 0.125" in parts
    assert "Holm's correction for the 5 tests" in said(page)


@pytest.mark.parametrize("content", ["{", '{"scores": [{"task": 1}]}', '{"scores": 3, "notes": []}'])
def test_a_damaged_evaluation_is_named_and_the_rest_is_compared(a_run, tmp_path, capsys, content):
    for name in ("one", "two"):
        known(a_run(name, [True] * 30), [1, 0])
    (tmp_path / "two/evals/triviaqa/results.json").write_text(content)
    with (tmp_path / "one/evals/triviaqa/samples.jsonl").open("a") as file:
        file.write("not JSON\n")
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert capsys.readouterr().err.count("ift: warning: ") == 2
    text = said(tmp_path / "page.html")
    assert "evals/triviaqa/samples.jsonl: line 3 is damaged" in text
    assert "no value" in cards(tmp_path / "page.html")


# -- many runs, many rows ----------------------------------------------------------------------------------------------


def test_twenty_runs_stand_in_one_table_that_sorts_by_any_column_with_the_keyboard(browser, a_run, tmp_path):
    rng = random.Random(0)
    shares = [round(rng.random(), 2) for _ in range(20)]
    for i, share in enumerate(shares):
        run = a_run(f"run-{i}", [j < 40 * share for j in range(40)], lr=0.001 * (i + 1))
        write_json(run.summary, {"val_loss": 2 - share, "train_seconds": 10.0} if i != 7 else {"status": "finished"})
    page = tmp_path / "page.html"
    compare([tmp_path / f"run-{i}" for i in range(20)], page)
    browser.open(page.as_uri())
    names = "[...document.querySelectorAll('.sorted')[0].tBodies[0].rows].map(r => r.cells[0].innerText.trim())"
    head = (
        "[...document.querySelectorAll('.sorted')[0].tHead.rows[0].cells].find(c => c.innerText.trim().startsWith({}))"
    )
    assert browser.js(names) == [f"run-{i}" for i in range(20)]

    def press(column):
        browser.js(head.format(json.dumps(column)) + ".querySelector('button').focus()")
        browser.do(
            "Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
        browser.do("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
        return browser.js(head.format(json.dumps(column)) + ".getAttribute('aria-sort')")

    assert press("validation loss") == "ascending"  # the best first
    by_loss = sorted((i for i in range(20) if i != 7), key=lambda i: 2 - shares[i])
    assert browser.js(names) == [f"run-{i}" for i in [*by_loss, 7]]  # a run without the number comes last
    assert press("validation loss") == "descending"
    assert browser.js(names)[-1] == "run-7"
    assert press("exact match") == "descending"
    values = browser.js(
        "[...document.querySelectorAll('.sorted')[0].tBodies[0].rows].map(r => Number(r.cells[2].dataset.key))"
    )
    assert values == sorted(values, reverse=True)
    assert browser.js("document.querySelectorAll('[aria-sort=descending]').length") == 1
    # as many answers as can be read side by side; the others with a tick
    shown = "[...document.querySelectorAll('.row')[0].querySelectorAll('[data-run]')].filter(e => !e.hidden).length"
    assert browser.js(shown) == 8
    browser.js("[...document.querySelectorAll('#runs input')].slice(8).forEach(e => e.click())")
    assert browser.js(shown) == 20
    assert browser.complaints == []


def test_a_page_of_many_rows_shows_those_where_the_runs_are_furthest_apart_and_is_bounded(a_run, tmp_path):
    for name in ("one", "two"):
        run = a_run(name, [True] * 3)
        rows = [
            {"instruction": f"Task {i}", "reference": "yes", "response": "yes" if name == "one" or i % 100 else "no"}
            for i in range(6_000)
        ]
        rows[5]["response"] = "long " * 50_000
        write_jsonl(run.responses, rows)
    page = tmp_path / "page.html"
    compare([tmp_path / "one", tmp_path / "two"], page)
    text = said(page)
    assert "300 of 6,000 rows: those where the runs are furthest apart by exact match" in text
    assert all(f"Task {i} " in text for i in range(0, 6_000, 100))
    assert page.stat().st_size < 1_500_000


def test_a_scale_has_round_ticks_and_one_range_for_all_runs_of_a_metric():
    metric = Metric("acc", ".1%", SHARE, 1, [[0.0, 1.0], [1.0, 1.0]])
    estimates = [mean_interval([0.0, 1.0] * 50, SHARE), mean_interval([1.0] * 100, SHARE)]
    found = scale(metric, [Line(i, e, None, "", None, "") for i, e in enumerate(estimates)])
    assert [label for _, label in found.ticks] == ["40%", "60%", "80%", "100%"]
    at = {label: place for place, label in found.ticks}
    assert found.places[0][1] == pytest.approx((at["40%"] + at["60%"]) / 2, abs=0.02)  # a mean of 50 %
    assert found.places[1][1] == pytest.approx(at["100%"])
    assert found.places[0][0] < found.places[0][1] < found.places[0][2] < at["100%"]


def test_tables_are_written_for_other_programs(a_run, tmp_path):
    for name in ("one", "two"):
        known(a_run(name, [i % 2 == 0 for i in range(30)], lr=len(name)), [1, 0])
    lines = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html", tables=tmp_path / "tables")
    names = ["runs", "tests", "categories"]
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(
        f"{name}.{ending}" for name in names for ending in ("csv", "md", "tex")
    )
    assert lines[-1] == f"tables    {tmp_path / 'tables'}: runs, tests, categories, each as .csv, .md and .tex"
    with (tmp_path / "tables/runs.csv").open(newline="") as file:
        header, first, second = csv.reader(file)
    found = dict(zip(header, first, strict=True))
    e = mean_interval([1.0, 0.0] * 15, SHARE)
    assert [float(found[f"exact match{end}"]) for end in ("", " low", " high")] == pytest.approx(
        [e.mean, e.low, e.high]
    )
    assert second[0] == "two"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("summary.json", 100_000 * "["),
        ("metrics.jsonl", "[1]\n"),
        ("config.yaml", "a: [b"),
        ("config.yaml", "format: 99\n"),
        ("config.yaml", "- 1"),
        ("config.yaml", "a: ${oc.env:HOME}\nb: !!python/object/apply:os.system ['touch /tmp/no']\n"),
        ("ratings.jsonl", "{}\n"),
        ("evals/judge-score-m/results.json", "nonsense"),
        ("evals/judge-score-m/results.json", '{"scale": [0, "x"]}'),
        ("evals/judge-score-m/results.json", '{"scale": [5, 5]}'),
        ("evals/judge-score-m/results.json", '{"scale": [0, 1], "wins": 3, "judge": {"against": "one"}}'),
        ("evals/judge-score-m/samples.jsonl", "{}\n"),
    ],
)
def test_a_broken_file_of_a_run_is_named_and_the_rest_is_compared(a_run, tmp_path, capsys, file, content):
    for name in ("one", "two"):
        a_run(name, [True, False], judge=lambda i, good: 50)
    (tmp_path / "two" / file).write_text(content)
    lines = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert "2 runs on 2 rows that all answered" in lines[0]
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("ift: warning: ")
    assert f"{tmp_path}/two/{file}: " in warning
    assert warning.endswith(")")
    text = said(tmp_path / "page.html")
    assert f"Cannot be read: {tmp_path}/two/{file}" in text
    assert "exact match" in text


def test_answers_that_cannot_be_read_are_an_error_of_one_line(a_run, tmp_path):
    for name in ("one", "two"):
        a_run(name, [True, False])
    (tmp_path / "two/responses.jsonl").write_text("[1, 2\n")
    with pytest.raises(DataError, match="two/responses") as caught:
        compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert "\n" not in str(caught.value)


def test_runs_of_different_versions_differ_in_their_settings_alone(a_run, tmp_path):
    a_run("one", [True])
    config = a_run("two", [True]).config
    config.write_text("format: 1\n" + config.read_text())
    assert differing([run.config for run in open_runs([tmp_path / "one", tmp_path / "two"])]) == []


def test_numbers_that_are_none_leave_a_gap(a_run, tmp_path):
    for name in ("one", "two"):
        a_run(name, [True, False])
    write_json(
        tmp_path / "one/summary.json", {"val_loss": "low", "test_loss": float("nan"), "bleu": True, "best_step": 3}
    )
    write_jsonl(tmp_path / "one/metrics.jsonl", [{"step": "x", "val/loss": 1}, {"step": 1, "val/loss": float("inf")}])
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert re.search(r"best step one \S+ .* 3 two", said(tmp_path / "page.html"))


def test_the_command_needs_two_runs_and_no_torch(a_run, tmp_path):
    for name in ("one", "two"):
        a_run(name, [True, False] * 5)
    with pytest.raises(ConfigError, match="1 runs given"):
        compare([tmp_path / "one"], tmp_path / "page.html")
    code = (
        "import sys; from ift.cli import main;"
        "sys.argv = ['ift', 'compare', 'one', 'two', '--base', 'two', '--tables', 't']; code = main();"
        "sys.exit(code or 9 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "look at   runs/compare/two-one.html"
    assert "differences are to two" in done.stdout
    assert (tmp_path / "t/runs.tex").exists()
    assert (tmp_path / "runs/compare/two-one.html").exists()


def test_evaluations_are_logged_into_the_runs_own_wandb_run(a_run, tmp_path, monkeypatch, settings_of):
    from ift.training.weights_and_biases import start_wandb, wandb_id

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = a_run("one", [True, False] * 5)
    options = settings_of("logger.project=tests", "logger.group=sweep-7").logger
    start_wandb(options, folder=folder.path, config={}, run_id=wandb_id(folder)).finish()
    with folder.config.open("a") as file:
        file.write("logger:\n  project: tests\n  entity: null\n  group: sweep-7\n")
    (training,) = folder.path.glob("wandb/offline-run-*")
    with JudgeServer(lambda body: "50") as there:
        words = [f"run={folder.path}", "eval=judge", "judge.model=m", f"judge.base_url={there.url}"]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            settings = settings_from(compose("evaluate", words), EvaluateSettings)
        evaluate(settings)
    (evaluation,) = set(folder.path.glob("wandb/offline-run-*")) - {training}
    assert evaluation.name.rpartition("-")[2] == training.name.rpartition("-")[2]
    (file,) = evaluation.glob("*.wandb")
    summary, history, groups = {}, {}, set()
    for record in records(file):
        if record.HasField("run"):
            groups.add(record.run.run_group)
        for kind, found, items in (("summary", summary, "update"), ("history", history, "item")):
            if record.HasField(kind):
                told = getattr(getattr(record, kind), items)
                found |= {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in told}
    assert groups == {"sweep-7"}
    assert summary["eval/judge-score-m/mean"] == 50
    assert summary["eval/judge-score-m/valid"] is False  # it gives everything 50
    assert history["eval/judge-score-m/_type"] == "table-file"
    assert history["eval/judge-score-m/nrows"] == 10
    assert history["_step"] == 82  # after the validation of the last step, 20: its row is 81
