"""The page of a run: everything on it, nothing from outside, and text from rows stays text."""

import json
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from ift.evaluation.people import Rating, Ratings
from ift.pages.plots import plot_curves
from ift.pages.report import intervals, times, write_report
from ift.run import RunFolder, write_json, write_jsonl

HOSTILE = "<script>document.title='hacked'</script><img src=x onerror=\"document.title='hacked'\">"
METRICS = [
    {"step": 0, "tokens": 0, "train/loss": 7.0, "val/loss": 7.1},
    {"step": 1, "tokens": 50, "train/loss": 5.0},
    {"step": 2, "tokens": 100, "train/loss": 4.0, "val/loss": 4.5},
]


def response(text: str) -> dict:
    return {"instruction": HOSTILE, "input": "", "reference": "fine", "response": text, "stop_reason": "end"}


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path)
    write_jsonl(run.metrics, METRICS)
    write_json(run.summary, {"best_step": 2})
    write_jsonl(run.responses, [response(HOSTILE), response("fine")])
    write_jsonl(run.samples, [{"step": step, **response(f"after {step}")} for step in (0, 2)])
    run.config.write_text("seed: 1\n")
    return run


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[tuple[str, dict]] = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_text_of_rows_and_models_makes_no_markup(run):
    write_report(run)
    tags = Tags()
    tags.feed(run.report.read_text())
    assert [tag for tag, _ in tags.found].count("script") == 1  # the page's own, by its hash
    assert "img" not in [tag for tag, _ in tags.found]
    assert not [a for _, a in tags.found if any(name.startswith("on") for name in a)]


def test_the_page_says_where_the_time_went_and_a_run_of_an_earlier_release_has_no_such_table(run):
    write_report(run)
    assert "Where the time went" not in run.report.read_text()
    parts = {"steps": 90.0, "validation": 4.0, "samples": 3.0, "saving": 2.0, "waiting": 1.0}
    before = {"start": 8.0, "untuned": 12.0}
    summary = {f"{part}_seconds": seconds for part, seconds in {**parts, **before}.items()}
    assert [(seconds, round(share, 2)) for _, seconds, share in times(summary)] == [
        (90.0, 75.0), (4.0, 3.33), (3.0, 2.5), (2.0, 1.67), (1.0, 0.83), (8.0, 6.67), (12.0, 10.0)
    ]  # fmt: skip
    write_json(run.summary, {"best_step": 2, **summary})
    write_report(run)
    page = run.report.read_text()
    assert '<h2 id="times">Where the time went</h2>' in page
    assert '<rect width="75.0" height="10"/>' in page
    assert times({"steps_seconds": "many", "validation_seconds": -1.0, "samples_seconds": 0}) == []


def test_nothing_on_the_page_comes_from_outside(run):
    write_report(run)
    page = run.report.read_text()
    tags = Tags()
    tags.feed(page)
    assert not [value for _, a in tags.found for value in a.values() if value and "://" in value]
    assert "default-src 'none'" in page


def test_a_page_can_be_made_of_a_run_that_has_only_begun(tmp_path):
    run = RunFolder(tmp_path)
    write_report(run)
    assert "<h1>" in run.report.read_text()


def test_what_judges_and_people_say_stands_with_how_far_to_trust_it(run):
    write_report(run)
    assert "What judges and people say" not in run.report.read_text()
    folder = run.evals / "judge-score-m"
    folder.mkdir(parents=True)
    write_jsonl(folder / "samples.jsonl", [])
    results = {"scale": [0, 100], "mean": 61.5, "low": 58.25, "high": 64.75, "scored": 99, "rows": 100, "valid": False}
    write_json(folder / "results.json", results)
    ratings = Ratings(run.ratings)
    for key, verdict in (("a", "right"), ("b", "right"), ("c", "wrong"), ("d", "right")):
        ratings.set(key, Rating(verdict))
    write_report(run)
    page = run.report.read_text()
    assert "61.50 (58.25 to 64.75) on 0 to 100, scored 99 of 100" in page
    assert "INVALID: it failed its canaries" in page
    assert "75.0% (19.4% to 99.4%) right, 4 rated" in page  # of Clopper and Pearson for 3 of 4


def test_two_people_who_rated_the_same_stand_with_how_far_they_agree(run):
    ratings = Ratings(run.ratings)
    for key, ours, theirs in (("a", "right", "right"), ("b", "right", "wrong"), ("c", "wrong", "wrong")):
        ratings.set(key, Rating(ours), "<b>anna")
        ratings.set(key, Rating(theirs), "ben")
    write_report(run)
    page = run.report.read_text()
    assert "50.0%" in page  # 1, 1/2 and 0: an answer counts once
    assert "right, 3 rated" in page
    assert "&lt;b&gt;anna and ben" in page
    assert "the same verdicts on 67% of 3 answers" in page
    assert "kappa 0.40" in page  # 1 - (1/3) / (2/3 * 2/3 + 1/3 * 1/3)


JUDGED = {"scale": [0, 100], "mean": 61.5, "low": None, "high": None, "scored": 9, "rows": 9, "valid": True}
SCORES = {"scores": [{"task": "mmlu", "metric": "acc", "value": 0.25, "n": 8}], "notes": [], "versions": {}}
REPORT = {  # what the page shows of data_report.json
    "rows_in": 60, "kept": 60, "dropped": 0, "merged": 0, "splits": {"train": 51, "test": 6, "val": 3}, "tokens": 6352,
    "supervised_share": 0.28, "length": {"p50": 101, "p90": 131, "p99": 139, "max": 140}, "max_length": 256,
    "twins": {"rows": 2}, "leaks": {"test": 0, "val": 0}, "prompt": "phi3", "prompt_hash": "c2139d", "tokenizer": "b",
    "dropped_by_reason": {},
}  # fmt: skip
SHOWN = {  # of each file of a run: words that are on the page as long as it can be read
    "summary.json": "test loss",
    "data_report.json": "51, test 6",
    "config.yaml": "seed: 1",
    "samples.jsonl": "before and after tuning",
    "responses.jsonl": "Answers to the test split",
    "ratings.jsonl": "1 rated",
    "evals/judge-m/results.json": "61.50 on 0 to 100",
    "evals/mmlu/results.json": "0.250, n = 8",
}
NUMBERS = (
    *("val_loss", "untuned_val_loss", "test_loss", "exact_match", "rouge_l", "bleu", "end_rate", "repetition_rate"),
    *("train_seconds", "tokens_per_second", "peak_memory_bytes", "best_step", "steps", "responses"),
)


@pytest.fixture
def whole(run):
    """A run that has every file."""
    words = {"status": "finished", "stop_reason": "max_steps", "accelerator": "cpu", "precision": "fp32"}
    write_json(run.summary, {**dict.fromkeys(NUMBERS, 2), **words})
    write_json(run.data_report, REPORT)
    Ratings(run.ratings).set("a", Rating("right"))
    for name, results in (("judge-m", JUDGED), ("mmlu", SCORES)):
        (run.evals / name).mkdir(parents=True)
        write_json(run.evals / name / "results.json", results)
        write_jsonl(run.evals / name / "samples.jsonl", [])
    return run


def with_other_types(path):
    lines = (
        [json.loads(line) for line in path.read_text().splitlines()]
        if path.suffix == ".jsonl"
        else [json.loads(path.read_text())]
    )
    write_jsonl(path, [{key: value if key == "status" else [value] for key, value in line.items()} for line in lines])


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2].rstrip(b"\n") + b"{\n"),
    "other types": with_other_types,
    "nested": lambda path: path.write_text(100_000 * "[" + "\n"),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "later": lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99})),
}
CASES = [
    (file, damage)
    for file in SHOWN
    for damage in DAMAGE
    if (damage != "later" or file in ("data_report.json", "evals/mmlu/results.json", "evals/judge-m/results.json"))
    and (file != "config.yaml" or damage in ("binary", "a folder"))  # text is shown as it is
]


@pytest.mark.parametrize(("file", "damage"), CASES)
def test_a_damaged_file_is_named_and_all_others_are_shown(whole, monkeypatch, capsys, file, damage):
    monkeypatch.setattr("ift.pages.report.plot_curves", lambda *_, **__: None)
    DAMAGE[damage](whole.path / file)
    write_report(whole)
    page, (warning,) = whole.report.read_text(), capsys.readouterr().err.splitlines()
    shown = {other for other, words in SHOWN.items() if words in page}
    # which samples are the best ones' stands in the summary
    assert shown == SHOWN.keys() - {
        file,
        *(["samples.jsonl"] if file == "summary.json" else []),
    }
    assert warning.startswith("ift: warning: ")
    assert f"{file}: " in warning
    assert warning.endswith(")")
    assert f"{file}: " in page.split("Files that cannot be read")[1].split("</div>")[0]


def test_a_whole_run_names_no_problem(whole, capsys):
    write_report(whole)
    page = whole.report.read_text()
    assert [words for words in SHOWN.values() if words not in page] == []
    assert "cannot be read" not in page
    assert capsys.readouterr().err == ""


def test_of_a_file_with_damaged_lines_the_others_are_shown(whole, capsys):
    with whole.responses.open("ab") as file:
        file.write(b'{"instruction": "x"}\n\xff\n{"instruction"')
    with whole.metrics.open("a") as file:
        file.write('{"step": "three", "tokens": 9}\n')
    write_report(whole)
    assert [line.partition("jsonl: ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "line 4 is damaged; 3 lines are shown (delete such lines)",
        "line 3 is damaged, and 2 more; 2 lines are shown (delete such lines)",
    ]
    assert whole.curves.stat().st_size > 1000


def test_scores_stand_with_their_intervals_of_the_rows(run):
    """3 of 4 exact: Wilson's interval is 30.1 % to 95.4 %, as in the table of any textbook."""
    write_jsonl(run.responses, [response(text) for text in ("fine", "fine", "fine", "bad")])
    numbers = {"responses": 4, "exact_match": 0.75, "rouge_l": 0.75, "end_rate": 1.0, "stop_reason": "max_steps"}
    write_json(run.summary, {**dict.fromkeys(NUMBERS, 2), **numbers, "accelerator": "cpu", "precision": "fp32"})
    write_report(run)
    assert '>75.0%</b><span class="between n">30.1% to 95.4%</span>' in run.report.read_text()


def test_intervals_of_the_summary_come_before_the_rows_and_numbers_of_other_rows_get_none():
    rows = [response("fine"), response("bad")]
    given = {"responses": 2, "exact_match": 0.5, "exact_match_low": 0.125, "exact_match_high": 0.875, "bleu_low": None}
    assert intervals(given, rows) == {"exact_match": (0.125, 0.875)}
    earlier = {"responses": 2, "exact_match": 0.5, "rouge_l": 0.25}  # another count of words than today's
    assert intervals(earlier, rows).keys() == {"exact_match"}
    assert intervals({"responses": 7, "exact_match": 0.5}, rows) == {}


def test_the_page_has_a_bounded_size_however_many_and_long_the_answers(run):
    long = {**response(20_000 * "x"), "instruction": 9_000 * "y"}
    write_jsonl(run.responses, [*[long] * 300, *[response("short")] * 3000])
    write_report(run)
    page = run.report.read_text()
    assert len(page) < 3_000_000
    assert "12,000 more characters" in page
    shown = page.split('id="list-answers"')[1].count("<article")
    assert f"The first {shown} answers; {3300 - shown:,} more in responses.jsonl" in page
    write_jsonl(run.responses, [response(f"answer {i}") for i in range(3000)])
    write_report(run)
    page = run.report.read_text()
    assert page.count("answer 999<") == 1
    assert "answer 1000<" not in page
    assert len(page) < 3_000_000


def click(browser, selector):
    browser.js(f"document.querySelector({selector!r}).click()")


def choose(browser, part, value):
    browser.js(
        f"(() => {{ const e = document.querySelector('#list-answers [data-part={part}]'); e.value = {value!r};"
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


SEEN = (
    "[...document.querySelectorAll('#list-answers .row')].filter(e => e.offsetParent)"
    ".map(e => e.querySelector('.r0 .said').textContent)"
)
COUNT = "document.querySelector('#list-answers [data-part=count]').textContent"


def test_answers_are_paged_searched_filtered_and_sorted_in_a_real_browser(browser, run):
    rows = [
        {**response(f"said {i}" if i % 5 else "fine"), "category": "even" if i % 2 == 0 else "odd"} for i in range(45)
    ]
    rows[7]["response"], rows[7]["stop_reason"] = "fine and then some more of it", "length"
    write_jsonl(run.responses, rows)
    write_report(run)
    browser.open(run.report.as_uri())
    assert len(browser.js(SEEN)) == 20
    assert browser.js(COUNT) == "1 to 20 of 45"
    click(browser, "#list-answers [data-step='1']")
    click(browser, "#list-answers [data-step='1']")
    assert browser.js(SEEN) == ["fine", "said 41", "said 42", "said 43", "said 44"]
    choose(browser, "kind", "exact")
    assert browser.js(SEEN) == ["fine"] * 9
    assert browser.js(COUNT) == "9 of 45"
    choose(browser, "kind", "cut")
    assert browser.js(SEEN) == ["fine and then some more of it"]
    choose(browser, "kind", "")
    choose(browser, "category", "odd")
    choose(browser, "search", "SAID 1")
    assert browser.js(SEEN) == [f"said {i}" for i in (1, 11, 13, 17, 19, 21, 31, 41)]
    choose(browser, "search", "")
    choose(browser, "order", "0-")  # closest to the reference first
    assert browser.js(SEEN)[:5] == ["fine"] * 4 + ["fine and then some more of it"]
    # what no row has cannot be chosen
    assert browser.js("[...document.querySelectorAll('#list-answers [data-part=kind] option')].map(o => o.value)") == [
        "", "differs", "exact", "cut",
    ]  # fmt: skip
    assert browser.complaints == []


def test_a_long_text_is_folded_and_a_button_opens_it(browser, run):
    write_jsonl(run.responses, [response("\n".join(f"line {i}" for i in range(80))), response("short")])
    write_report(run)
    browser.open(run.report.as_uri())
    height = "document.querySelector('#list-answers .r0 .said').offsetHeight"
    folded = browser.js(height)
    assert folded < 300
    assert browser.js("document.querySelectorAll('#list-answers .unfold').length") == 1
    click(browser, "#list-answers .unfold")
    assert browser.js(height) > 1000
    assert browser.js("document.querySelector('#list-answers .unfold').ariaExpanded") == "true"


def test_curves_are_a_picture_of_a_useful_size(tmp_path):
    plot_curves(METRICS, tmp_path / "curves.png", best_step=2)
    from PIL import Image

    with Image.open(tmp_path / "curves.png") as image:
        assert image.size >= (800, 450)
        assert len(image.convert("RGB").getcolors(maxcolors=10**6)) > 10


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_in_a_real_browser_the_page_shows_the_text_and_runs_nothing(run, tmp_path):
    write_report(run)
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=2000"]
    command += ["--dump-dom", run.report.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "<title>" in result.stdout
    assert "<title>hacked" not in result.stdout
    assert "&lt;script&gt;" in result.stdout
