"""Choices follow their odds, one number makes one choice, and each row of a batch may be sampled in its own way."""

import math

import numpy as np
import pytest
import torch

from ift.generation.sampling import Sampling, choose, choose_each, penalise

# tokens in an order of their own: 3 is the likeliest, then 0, 4, 1, 2
ODDS = [0.30, 0.05, 0.04, 0.45, 0.16]


def shares(sampling: Sampling, n: int = 10_000) -> list[float]:
    """How often each token of ODDS is chosen when u takes n evenly spaced values."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    chosen = choose(torch.tensor(ODDS).log().expand(n, -1), sampling, u)
    return (torch.bincount(chosen, minlength=5) / n).tolist()


def test_one_number_makes_one_choice():
    u = torch.tensor([0.0, 0.44, 0.46, 0.74, 0.76, 0.90, 0.92, 0.95, 0.97, 0.99999])
    chosen = choose(torch.tensor(ODDS).log().expand(10, -1), Sampling(1.0), u)
    assert chosen.tolist() == [3, 3, 0, 0, 4, 4, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0), ODDS),
        (Sampling(1.0, top_k=2), [0.30 / 0.75, 0, 0, 0.45 / 0.75, 0]),
        (Sampling(1.0, top_k=5), ODDS),
        (Sampling(1.0, top_k=99), ODDS),
        # the smallest set with at least this mass: 0.45, 0.45 + 0.30, ...
        (Sampling(1.0, top_p=0.44), [0, 0, 0, 1, 0]),
        (Sampling(1.0, top_p=0.46), [0.30 / 0.75, 0, 0, 0.45 / 0.75, 0]),
        (Sampling(1.0, top_p=0.74), [0.30 / 0.75, 0, 0, 0.45 / 0.75, 0]),
        (Sampling(1.0, top_p=0.76), [0.30 / 0.91, 0, 0, 0.45 / 0.91, 0.16 / 0.91]),
        (Sampling(1.0, top_p=1.0), ODDS),
        # top_p looks at what top_k has left: 0.45 / 0.75 = 0.6
        (Sampling(1.0, top_k=2, top_p=0.59), [0, 0, 0, 1, 0]),
        # temperature 0.5 squares the odds, 2 takes their root
        (Sampling(0.5), [p**2 / sum(q**2 for q in ODDS) for p in ODDS]),
        (Sampling(2.0), [p**0.5 / sum(q**0.5 for q in ODDS) for p in ODDS]),
        (Sampling(0.0), [0, 0, 0, 1, 0]),
    ],
    ids=str,
)
def test_choices_follow_their_odds(sampling, expected):
    assert shares(sampling) == pytest.approx(expected, abs=2e-4)


def test_rows_of_one_batch_are_each_sampled_in_their_own_way():
    samplings = [Sampling(), Sampling(1.0), Sampling(1.0, top_k=2), Sampling(0.5), Sampling(1.0), Sampling()]
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    u = torch.tensor([0.0, 0.2, 0.9, 0.7, 0.99, 0.0], dtype=torch.float64)
    chosen = choose_each(logits, samplings, u)
    for row, sampling in enumerate(samplings):
        assert chosen[row : row + 1].tolist() == choose(logits[row : row + 1], sampling, u[row : row + 1]).tolist()
    assert chosen[0] == logits[0].argmax()
    assert choose_each(logits, [Sampling()] * 6, None).tolist() == logits.argmax(dim=-1).tolist()


def test_numbers_of_an_answer_are_uniform_and_answers_have_their_own():
    u = np.stack([Sampling(1.0, stream=row).random().random(50) for row in range(200)])
    assert u.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * u.size))
    assert len(np.unique(u)) == u.size
    one_by_one = Sampling(1.0, stream=7).random()
    assert [one_by_one.random() for _ in range(50)] == u[7].tolist()
    assert Sampling().random() is None  # greedy


def test_a_penalty_divides_what_is_above_zero_and_multiplies_what_is_below():
    logits = torch.tensor([[2.0, -2.0, 3.0], [2.0, -2.0, 3.0]])
    seen = torch.tensor([[True, True, False], [True, False, False]])
    assert penalise(logits, seen, torch.tensor([[2.0], [1.0]])).tolist() == [[1.0, -4.0, 3.0], [2.0, -2.0, 3.0]]
    with pytest.raises(ValueError, match="repetition_penalty=0: must be above 0"):
        Sampling(repetition_penalty=0)
