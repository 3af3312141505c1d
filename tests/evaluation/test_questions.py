"""Samples of every engine as questions that runs share: what is paired, what has no partner, what is no mean."""

import math

import pytest

from ift.evaluation.questions import pair, read_questions
from ift.evaluation.results import Score
from ift.run import write_jsonl


def line(task, number, **values):
    known = {"model": "tuned", "prompt_form": "raw", "prompt": f"Q {number}", "target": "A"}
    return {"task": task, "doc_id": number, **known, "metrics": values}


def score(task, metric, value, n, **more):
    return Score(task=task, metric=metric, value=value, n=n, **more)


def values(questions):
    return {name: question.value for name, question in questions.items()}


def test_a_task_and_the_group_that_it_belongs_to_are_found_and_a_number_that_is_no_mean_is_not(tmp_path):
    lines = [line("mmlu_anatomy", i, acc=float(i % 2), f1=[1, 0]) for i in range(4)]
    lines += [line("mmlu_law", i, acc=1.0) for i in range(2)]
    lines += [{**line("mmlu_law", i, acc=0.0), "model": "base"} for i in range(2)]
    write_jsonl(tmp_path / "samples.jsonl", lines)
    scores = [
        score("mmlu", "acc", 4 / 6, 6),
        score("mmlu_anatomy", "acc", 0.5, 4),
        score("mmlu_law", "acc", 0.0, 2, model="base"),
        score("mmlu_anatomy", "f1", 0.66, 4),  # no mean of numbers of its questions
        score("mmlu_law", "acc", 0.5, 2),  # not the mean of its questions
        score("mmlu_law", "acc", None, 2, prompt="template"),
    ]
    found, problems = read_questions(tmp_path, scores)
    assert problems == []
    assert list(found) == ["mmlu/acc", "mmlu_anatomy/acc", "mmlu_law/acc/base"]
    assert len(found["mmlu/acc"]) == 6
    assert values(found["mmlu_anatomy/acc"]) == {f"mmlu_anatomy {i}": float(i % 2) for i in range(4)}


def test_two_filters_of_one_task_are_two_numbers(tmp_path):
    lines = [
        {**line("gsm8k", i, exact_match=float(f == "strict")), "filter": f} for i in (0, 1) for f in ("strict", "x")
    ]
    write_jsonl(tmp_path / "samples.jsonl", lines)
    scores = [score("gsm8k", "exact_match (strict)", 1.0, 2), score("gsm8k", "exact_match (x)", 0.0, 2)]
    assert sorted(read_questions(tmp_path, scores)[0]) == ["gsm8k/exact_match (strict)", "gsm8k/exact_match (x)"]


def test_attempts_at_a_program_are_one_question_at_each_k(tmp_path):
    right = {"HumanEval/0": [True, False, False], "HumanEval/1": [False, False, False]}
    lines = [
        {"task": task, "model": "tuned", "prompt": "raw", "attempt": i, "asked": "def f", "right": passed}
        for task, attempts in right.items()
        for i, passed in enumerate(attempts)
    ]
    write_jsonl(tmp_path / "samples.jsonl", lines)
    # of three attempts, one right: two of them hold it in 2 of 3 draws
    scores = [score("humaneval", "pass@1", 1 / 6, 2), score("humaneval", "pass@2", 1 / 3, 2)]
    found, _ = read_questions(tmp_path, scores)
    assert values(found["humaneval/pass@1"]) == pytest.approx(
        {"humaneval HumanEval/0": 1 / 3, "humaneval HumanEval/1": 0}
    )
    assert values(found["humaneval/pass@2"]) == pytest.approx(
        {"humaneval HumanEval/0": 2 / 3, "humaneval HumanEval/1": 0}
    )


def test_the_lines_of_other_packages_are_read_as_they_are(tmp_path):
    base = {"model": "tuned", "prompt": "template"}
    (tmp_path / "alpaca").mkdir()
    preferences = [2, 1, 1.5, None]
    asked = [
        {"instruction": f"Q{i}", "input": "", "reference": "r", "preference": p, **base}
        for i, p in enumerate(preferences)
    ]
    write_jsonl(tmp_path / "alpaca/samples.jsonl", asked)
    found, _ = read_questions(tmp_path / "alpaca", [score("alpaca_eval", "win_rate", 50.0, 3, prompt="template")])
    assert sorted(values(found["alpaca_eval/win_rate/template"]).values()) == [0, 50, 100]
    (tmp_path / "helm").mkdir()
    helm = {"task": "boolq", "model": "tuned", "prompt_kind": "raw", "prompt": "long text", "reference": ["yes"]}
    write_jsonl(tmp_path / "helm/samples.jsonl", [{**helm, "id": f"id{i}", "exact_match": i} for i in (0, 1)])
    found, _ = read_questions(tmp_path / "helm", [score("boolq", "exact_match", 0.5, 2)])
    assert values(found["boolq/exact_match"]) == {"boolq id0": 0, "boolq id1": 1}
    (tmp_path / "openai").mkdir()
    openai = {"task": "t", "prompt_messages": [{"role": "user"}], "expected": "x", **base}
    write_jsonl(tmp_path / "openai/samples.jsonl", [{**openai, "sample": f"t.{i}", "correct": i == 0} for i in (0, 1)])
    found, _ = read_questions(tmp_path / "openai", [score("t", "accuracy", 0.5, 2, prompt="template")])
    assert values(found["t/accuracy/template"]) == {"t t.0": 1, "t t.1": 0}


def test_questions_are_paired_by_task_and_id_and_what_has_no_partner_is_named(tmp_path):
    def run(name, lines):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "samples.jsonl", lines)
        mean = sum(each["metrics"]["acc"] for each in lines) / len(lines)
        return read_questions(tmp_path / name, [score("t", "acc", mean, len(lines))])[0]["t/acc"]

    one = run("one", [line("t", i, acc=1.0) for i in (0, 1, 2, 3)])
    other = [line("t", i, acc=0.0) for i in (5, 3, 2, 1)]
    other[1] |= {"target": "B"}  # 3 is another question there
    other[2] |= {"prompt": "with an example. Q 2"}
    found = pair(one, run("two", other))
    assert found.both == ["t 1", "t 2"]
    assert found.alone == (["t 0", "t 3"], ["t 5", "t 3"])
    assert found.reworded == 1


def test_damaged_lines_are_named_and_take_their_score_with_them(tmp_path):
    write_jsonl(tmp_path / "samples.jsonl", [line("t", 0, acc=1.0), line("u", 0, acc=1.0)])
    with (tmp_path / "samples.jsonl").open("a") as file:
        file.write('[1]\n{"task": "t"}\n' + "[" * 100_000 + "\n")
    found, (problem,) = read_questions(tmp_path, [score("t", "acc", 1.0, 2), score("u", "acc", 1.0, 1)])
    assert list(found) == ["u/acc"]
    assert "line 3 is damaged, and 2 more" in str(problem)
    assert read_questions(tmp_path / "none", []) == ({}, [])
    write_jsonl(tmp_path / "samples.jsonl", [line("t", 0, acc=math.nan), line("t", 1, acc=1.0)])
    assert read_questions(tmp_path, [score("t", "acc", 1.0, 2)])[0] == {}  # one of its questions has no number
