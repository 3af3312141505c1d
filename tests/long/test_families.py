"""Every family, gradients and answers; tests/model/families has logits of all and the rest of some."""

import pytest

from tests.model.families.test_family import CASES, T, compare_answers, compare_gradients, made  # noqa: F401


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_transformers(made, name):  # noqa: F811
    compare_gradients(*made(name))


@pytest.mark.parametrize("name", CASES)
def test_twenty_answers_of_ragged_prompts_are_those_of_transformers(made, name):  # noqa: F811
    """A row that grows over the original context of longrope is computed anew there: its prompts begin above it."""
    lengths = [17 + n for n in range(12)] if "longrope" in name else [1 + n * 26 // 20 for n in range(20)]
    compare_answers(*made(name), lengths=lengths)
