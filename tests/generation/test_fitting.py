"""A prompt that is too long is refused or loses its beginning, as the caller chooses, and is reported."""

import pytest

from ift.generation.engine import Generated
from ift.generation.fitting import Overlong, fit

PROMPTS = [[1] * 7, [1, 2, 3], list(range(8)), list(range(9)), [4] * 6]


def test_a_refused_prompt_fills_the_context_and_gets_an_empty_answer():
    """Of 8 positions an answer needs one."""
    fitted = fit(PROMPTS, Overlong.REFUSE, context_length=8, max_new_tokens=5)
    assert fitted.prompts == [PROMPTS[0], PROMPTS[1], PROMPTS[4]]
    assert fitted.too_long == [2, 3]
    answers = fitted.answers([Generated([n], "length") for n in (10, 11, 12)])
    assert [(answer.ids, answer.stop_reason) for answer in answers] == [
        ([10], "length"),
        ([11], "length"),
        ([], "context"),
        ([], "context"),
        ([12], "length"),
    ]


def test_a_prompt_that_keeps_its_end_leaves_room_for_all_new_tokens():
    fitted = fit(PROMPTS, Overlong.KEEP_END, context_length=8, max_new_tokens=5)
    assert fitted.prompts == [[1] * 3, [1, 2, 3], [5, 6, 7], [6, 7, 8], [4] * 3]
    assert fitted.too_long == [0, 2, 3, 4]
    answers = [Generated([n], "end") for n in range(5)]
    assert fitted.answers(answers) == answers


def test_the_longest_prompt_that_is_taken_as_it_is():
    assert Overlong.REFUSE.longest(8, 5) == 7
    assert Overlong.KEEP_END.longest(8, 5) == 3


def test_no_room_for_any_prompt_is_an_error():
    assert fit([[1, 2]], Overlong.KEEP_END, context_length=8, max_new_tokens=7).prompts == [[2]]
    with pytest.raises(ValueError, match="max_new_tokens=8: the model has 8 positions"):
        fit([[1, 2]], Overlong.KEEP_END, context_length=8, max_new_tokens=8)


def test_no_prompts_have_no_answers():
    assert fit([], Overlong.REFUSE, context_length=8, max_new_tokens=1).answers([]) == []
