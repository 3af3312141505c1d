"""The page of a run: everything on it, nothing from outside, and text from rows stays text."""

import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from ift.evaluation.people import Rating, Ratings
from ift.pages.plots import plot_curves
from ift.pages.report import before_and_after, write_report
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
    assert "script" not in [tag for tag, _ in tags.found]
    assert [a["src"][:22] for tag, a in tags.found if tag == "img"] == ["data:image/png;base64,"]
    assert not [a for _, a in tags.found if any(name.startswith("on") for name in a)]


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
    assert "75.0% (30.1% to 95.4%) right, 4 rated" in page  # Wilson's for 3 of 4


def test_samples_pair_the_untuned_answer_with_the_best_steps():
    samples = [{"step": step, "instruction": "i", "response": f"at {step}"} for step in (0, 5, 9)]
    (pair,) = before_and_after(samples, best_step=5)
    assert (pair["untuned"], pair["tuned"]) == ("at 0", "at 5")


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
