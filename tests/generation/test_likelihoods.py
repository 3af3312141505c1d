"""Log-likelihoods are those of each row alone in plain torch, whatever is computed together and shared."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ift import stops
from ift.errors import Stopped
from ift.generation.likelihoods import WORTH, branches, log_likelihoods
from ift.model.config import GPTConfig
from ift.model.gpt import GPT

VOCABULARY, CONTEXT = 30, 40


@pytest.fixture(scope="module")
def model() -> GPT:
    """Two rows of the head are no token, and have a part in the softmax."""
    torch.manual_seed(3)
    model = GPT(GPTConfig(VOCABULARY + 2, CONTEXT, n_layer=2, n_head=2, n_embd=32, tie_weights=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def windows() -> list[tuple[list[int], list[int]]]:
    """Ten questions after the same 12 tokens, each with four continuations of 1 to 6 tokens; and odd ones."""
    random = np.random.default_rng(4)
    few_shot = random.integers(0, VOCABULARY, 12).tolist()
    found = []
    for _ in range(10):
        question = [*few_shot, *random.integers(0, VOCABULARY, int(random.integers(1, 14))).tolist()]
        for _ in range(4):
            found.append((question, random.integers(0, VOCABULARY, int(random.integers(1, 7))).tolist()))
    found += [([3], [4]), ([3], [5]), ([3], random.integers(0, VOCABULARY, CONTEXT).tolist()), found[0]]
    found += [(found[4][0][:9], found[4][0][9:]), (found[4][0][:9], found[4][0][9:-1])]  # a row within another
    return found


def alone(model: GPT, given: list[int], scored: list[int]) -> tuple[float, bool]:
    with torch.no_grad():
        logits = model(torch.tensor([[*given, *scored[:-1]]]))[0, len(given) - 1 :]
    said = torch.log_softmax(logits, dim=-1)[range(len(scored)), scored]
    return float(said.sum()), logits.argmax(dim=-1).tolist() == scored


def found(model: GPT, windows, batch_tokens: int = 200, **options) -> list[tuple[float, bool]]:
    windows = [(np.array(given), np.array(scored)) for given, scored in windows]
    return log_likelihoods(model, windows, batch_tokens=batch_tokens, **options)


@pytest.mark.parametrize("batch_tokens", [1, 60, 10_000])
def test_each_is_what_the_row_alone_gives(model, windows, batch_tokens):
    greedy = [(given, [most_likely(model, given)]) for given, _ in windows[:20:4]]
    windows = [*windows, *greedy]
    expected = [alone(model, *window) for window in windows]
    answers = found(model, windows, batch_tokens)
    assert [logprob for logprob, _ in answers] == pytest.approx([logprob for logprob, _ in expected], abs=1e-4)
    assert [first for _, first in answers] == [first for _, first in expected]
    assert {first for _, first in expected} == {True, False}


def most_likely(model: GPT, given: list[int]) -> int:
    with torch.no_grad():
        return int(model(torch.tensor([given]))[0, -1].argmax())


def test_nothing_is_computed_twice_and_the_head_sees_only_what_is_asked_about(model):
    few_shot, questions = list(range(20)), [[20] * 9, [21] * 9]
    windows = [([*few_shot, *q], [a]) for q in questions for a in range(4)]  # one token: one position for four answers
    windows += [([*few_shot, *q], [a, 5, 6]) for q in questions for a in range(2)]
    sizes = {"ln_f": [], "lm_head": []}
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda *args, of=of: of.append(len(args[2])))
        for name, of in sizes.items()
    ]
    found(model, windows)
    for hook in hooks:
        hook.remove()
    assert sizes["ln_f"] == [20 + 2 * 9 + 2 * 2 * 2]  # the examples once, each question once, two more tokens an answer
    assert sizes["lm_head"] == [2 * 1 + 2 * 2 * 2]


def test_a_batch_is_reported_when_it_is_done_and_no_answer_twice(model, windows):
    batches = []
    answers = found(model, windows, 60, ended=batches.append)
    assert len(batches) > 3
    assert sorted(number for batch in batches for number in batch) == list(range(len(windows)))
    assert {number: answer for batch in batches for number, answer in batch.items()} == dict(enumerate(answers))


def test_a_stop_comes_between_two_batches(model, windows, monkeypatch):
    batches = []

    def ended(answers):
        batches.append(answers)
        monkeypatch.setattr(stops, "received", "SIGTERM")

    with pytest.raises(Stopped, match="between two batches of questions"):
        found(model, windows, 100, ended=ended)
    assert len(batches) == 1


def test_no_questions_have_no_answers(model):
    assert found(model, []) == []


@settings(max_examples=150, deadline=None)
@given(st.sets(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=4).map(tuple), min_size=1, max_size=20))
def test_every_token_of_a_row_sees_that_row_up_to_itself(words):
    """Rows of long words, so that many of them begin alike, end within another, or part after a word."""
    rows = sorted({tuple(letter for word in row for letter in [word] * WORTH) for row in words})
    rows = [np.array(row) for row in rows]
    tokens, tree, places = branches(rows)
    assert len(tokens) == sum(tree.lengths) <= sum(map(len, rows))
    positions = tree.positions(torch.zeros(len(tokens))).numpy()
    seen = {}
    for begin, end, way in tree.rows():
        before = [place for stretch in way for place in range(stretch.start, stretch.stop)]
        seen |= {place: [*before, *range(begin, place + 1)] for place in range(begin, end)}
    for row, where in zip(rows, places, strict=True):
        assert tokens[where].tolist() == row.tolist()
        assert positions[where].tolist() == list(range(len(row)))
        assert seen[where[-1]] == where.tolist()
    starts = {tuple(row[:end]) for row in rows for end in range(WORTH, len(row) + 1, WORTH)}
    assert len(tokens) == WORTH * len(starts)  # each beginning stands there once
