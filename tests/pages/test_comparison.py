"""The page of a comparison: its numbers are the statistics', its words only what tests support, in a real browser."""

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
from ift.evaluation.answers import open_answers
from ift.evaluation.people import Rating, Ratings
from ift.evaluation.statistics import agreement, compare_pairs, mean_interval
from ift.pages.comparison import agreements, compare, differing_keys, names_apart, open_runs
from ift.pages.plots import curves_drawing, round_ticks
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
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()))


def test_the_numbers_are_those_of_the_statistics_and_only_a_settled_difference_has_a_word(a_run, tmp_path):
    one = [i % 2 == 0 for i in range(60)]
    two = [i % 2 == 0 or i % 3 == 0 for i in range(60)]  # ten more, none less
    a_run("one", one)
    a_run("two", two, lr=0.002)
    page = tmp_path / "page.html"
    lines = compare([tmp_path / "one", tmp_path / "two"], page)
    test, estimate = (
        compare_pairs([float(x) for x in one], [float(x) for x in two]),
        mean_interval([float(x) for x in two]),
    )
    assert (test.wins, test.losses, test.p) == (10, 0, 2 / 2**10)
    text = said(page)
    assert f"{estimate.mean:.1%} {estimate.low:.1%} to {estimate.high:.1%} better +16.7%" in text
    # two of three tests on the page are real: exact match and ROUGE-L; "ended by itself" is the same in both
    assert "Holm's correction for the 3 tests on this page" in text
    assert f"p = {3 * test.p:.2g}" in text
    assert any(f"better: +16.7% (95 %: {test.low:+.1%} to {test.high:+.1%}; p = 0.0059)" in line for line in lines)
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
    assert "judge: score-m INVALID: this judge failed its canaries" in said(tmp_path / "page.html")
    section = said(tmp_path / "page.html").split("judge: score-m")[1].split("exact match")[0]
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


def test_runs_that_were_tested_on_other_rows_are_told_apart(a_run, tmp_path):
    for name, question in (("one", "Task 1"), ("two", "Task 2")):
        write_jsonl(a_run(name, [True] * 8).test_rows, [{"instruction": question}])
    lines = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert lines[1] == "test rows differ (A one, B two): losses of whole runs are of different rows"
    assert "test rows A B" in said(tmp_path / "page.html")
    write_jsonl(RunFolder(tmp_path / "two").test_rows, [{"instruction": "Task 1"}])
    assert "differ (" not in "".join(compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html"))
    assert "test rows" not in said(tmp_path / "page.html")


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
    assert "0 rows that all 2 runs answered" in compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")[0]
    assert "Answers side by side" not in said(tmp_path / "page.html")
    theirs = write(
        "theirs.json", [{"instruction": "Task 1", "input": "", "output": "the answer 1", "model_response": "x"}]
    )
    lines = compare([tmp_path / "one", theirs], tmp_path / "page.html")
    assert "1 rows that all 2 runs answered" in lines[0]
    assert "(1 more in one, 0 more in theirs)" in said(tmp_path / "page.html")


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
    assert "2 rows that all 2 runs answered" in lines[0]
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
    assert differing_keys(open_runs([tmp_path / "one", tmp_path / "two"])) == []


def test_numbers_that_are_none_leave_a_gap(a_run, tmp_path):
    for name in ("one", "two"):
        a_run(name, [True, False])
    write_json(
        tmp_path / "one/summary.json", {"val_loss": "low", "test_loss": float("nan"), "bleu": True, "best_step": 3}
    )
    write_jsonl(tmp_path / "one/metrics.jsonl", [{"step": "x", "val/loss": 1}, {"step": 1, "val/loss": float("inf")}])
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "page.html")
    assert "best step 3 –" in said(tmp_path / "page.html")


def test_the_command_needs_two_runs_and_no_torch(a_run, tmp_path):
    for name in ("one", "two"):
        a_run(name, [True, False] * 5)
    with pytest.raises(ConfigError, match="1 runs given"):
        compare([tmp_path / "one"], tmp_path / "page.html")
    code = (
        "import sys; from ift.cli import main; sys.argv = ['ift', 'compare', 'one', 'two']; code = main();"
        "sys.exit(code or 9 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "look at   runs/compare/one-two.html"
    assert (tmp_path / "runs/compare/one-two.html").exists()


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
