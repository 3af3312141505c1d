"""Tuned against base: pairs by question, families of tests, and the closing line."""

import pytest

from ift.evaluation.against_base import against_base, note_differences
from ift.evaluation.results import Score
from ift.evaluation.statistics import SHARE, compare_pairs


def share(*_):
    return SHARE


def lines(model: str, task: str, values, *, prompt="raw", first=0):
    for number, value in enumerate(values, start=first):
        yield {"task": task, "doc_id": number, "model": model, "prompt_form": prompt, "metrics": {"acc": value}}


def score(task: str, **more) -> Score:
    return Score(task=task, metric="acc", value=0.0, n=1, **more)


def test_questions_are_paired_by_their_number_and_those_of_one_side_are_left_out():
    samples = [*lines("base", "a", [1.0, 0.0, 1.0], first=1), *lines("tuned", "a", [1.0, 1.0, 1.0])]
    [found] = against_base(samples, [score("a")], {}, scale_of=share)
    assert found["n"] == 2  # questions 1 and 2: base 1 and 0, tuned 1 and 1
    assert found["difference"] == 0.5


def test_holm_s_p_is_of_the_headlines_and_of_their_parts_by_themselves():
    samples = []
    for part in range(20):
        samples += [*lines("base", f"part{part}", [0.0] * 8), *lines("tuned", f"part{part}", [float(part == 0)] * 8)]
    scores = [score("whole"), *(score(f"part{part}", headline=False) for part in range(20))]
    groups = {"whole": [f"part{part}" for part in range(20)]}
    found = {each["task"]: each for each in against_base(samples, scores, groups, scale_of=share)}
    alone = compare_pairs([0.0] * 160, [1.0] * 8 + [0.0] * 152, SHARE)
    assert found["whole"]["p"] == pytest.approx(alone.p)  # one headline: nothing to adjust
    assert found["part0"]["p"] == pytest.approx(min(1.0, 20 * 2 / 2**8))
    assert found["whole"]["n"] == 160
    assert [each["verdict"] for each in (found["whole"], found["part0"])] == ["better", "not settled"]
    whole, parts = note_differences(list(found.values()))
    assert whole == (
        "Tuned against base on the same questions, one test: better in whole acc raw "
        f"(+0.050, {alone.low:+.3f} to {alone.high:+.3f}, p = 0.0078)."
    )
    assert parts == "Their parts, 20 tests with Holm's p: not settled in 20."


def test_lower_may_be_better_and_another_form_of_prompt_is_another_pair():
    samples = [
        *lines("base", "a", [1.0] * 8),
        *lines("tuned", "a", [0.0] * 8),
        *lines("tuned", "a", [1.0] * 8, prompt="template"),
    ]
    found = against_base(samples, [score("a", higher_is_better=False)], {}, scale_of=share)
    assert [(each["prompt"], each["difference"], each["verdict"]) for each in found] == [
        ("raw", -1.0, "better"),
        ("template", 0.0, "not settled"),
    ]


def test_without_a_base_model_nothing_is_said():
    assert against_base(list(lines("tuned", "a", [1.0])), [score("a")], {}, scale_of=share) == []
    assert note_differences([]) == []
