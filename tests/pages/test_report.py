"""The page of a run: everything on it, nothing from outside, and text from rows stays text."""

import json
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


JUDGED = {"scale": [0, 100], "mean": 61.5, "low": None, "high": None, "scored": 9, "rows": 9, "valid": True}
SCORES = {"scores": [{"task": "mmlu", "metric": "acc", "value": 0.25, "n": 8}], "notes": [], "versions": {}}
REPORT = {  # what the page shows of data_report.json
    "rows_in": 60, "kept": 60, "dropped": 0, "merged": 0, "splits": {"train": 51, "test": 6, "val": 3}, "tokens": 6352,
    "supervised_share": 0.28, "length": {"p50": 101, "p90": 131, "p99": 139, "max": 140}, "max_length": 256,
    "twins": {"rows": 2}, "leaks": {"test": 0, "val": 0}, "prompt": "phi3", "prompt_hash": "c2139d", "tokenizer": "b",
    "dropped_by_reason": {},
}  # fmt: skip
SHOWN = {  # of each file of a run: words that are on the page as long as it can be read
    "summary.json": "ROUGE-L",
    "data_report.json": "51, test 6",
    "config.yaml": "seed: 1",
    "samples.jsonl": "before and after",
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
