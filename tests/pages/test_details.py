"""What is told of one run: its numbers, its answers by question and step, its data report, and what is damaged."""

import pytest

from ift.pages.details import MOMENTS, Details, by_question, facts, spread
from ift.pages.live import LiveRun
from ift.run import RunFolder, write_json, write_jsonl


def test_each_question_has_its_answers_by_step_and_a_step_taken_again_counts_once():
    samples = [
        {"step": step, "instruction": question, "input": "", "reference": "yes", "response": f"{question} {step} {i}"}
        for i, (step, question) in enumerate([(0, "a"), (0, "b"), (5, "a"), (5, "b"), (5, "a")])
    ]
    found = by_question(samples)
    assert [(each["instruction"], each["reference"]) for each in found] == [("a", "yes"), ("b", "yes")]
    assert [(each["step"], each["response"]) for each in found[0]["answers"]] == [(0, "a 0 0"), (5, "a 5 4")]


def test_of_many_answers_the_first_the_last_and_some_between_are_kept():
    assert spread([0, 1, 2, 3, 4], 3) == [0, 2, 4]
    assert spread([7, 9], 3) == [7, 9]
    [question] = by_question([{"step": s, "instruction": "q", "response": "r"} for s in range(100)])
    assert (len(question["answers"]), question["left_out"]) == (MOMENTS, 100 - MOMENTS)
    assert [question["answers"][i]["step"] for i in (0, -1)] == [0, 99]


def test_facts_are_the_numbers_of_the_summary_and_nothing_else():
    summary = {"val_loss": 0.123456, "peak_memory_bytes": 3e9, "exact_match": "high", "test_loss": float("nan")}
    assert facts(summary) == [["validation loss", "0.1235"], ["memory at most, GB", "3.00"]]


def test_files_are_read_again_when_they_have_changed(tmp_path):
    run = RunFolder(tmp_path)
    details = Details(LiveRun(tmp_path))
    details.look()
    first = details.key
    assert details.content == {"facts": [], "samples": [], "data": [], "problems": []}
    details.look()
    assert details.key == first
    write_jsonl(run.samples, [{"step": 1, "instruction": "q", "response": "\u202er" + "x" * 9000}])
    details.look()
    assert details.key != first
    [answer] = details.content["samples"][0]["answers"]
    assert answer["response"].startswith("⟨U+202E⟩r")
    assert answer["response"].endswith("more characters")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("samples.jsonl", '{"step": 1}\n', "line 1 is damaged"),
        ("data_report.json", '{"splits": 1}', "not a whole report"),
        ("data_report.json", '{"format": 99}', "this release reads up to version"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, name, content, problem):
    (tmp_path / name).write_text(content)
    details = Details(LiveRun(tmp_path))
    details.look()
    [told] = details.content["problems"]
    assert problem in told


def test_a_report_of_this_release_is_told_as_training_tells_it(tmp_path):
    write_json(tmp_path / "data_report.json", {})
    details = Details(LiveRun(tmp_path))
    details.look()
    assert details.content["data"] == []
