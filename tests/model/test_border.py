"""Rows that outgrow the context before it was stretched (longrope): each turns by its own length, alone or not.

The reference is one row alone, computed whole at each token.
"""

import numpy as np
import pytest
import torch

from ift.data.batches import collate_padded, collate_unpadded
from ift.generation.engine import PIECE_TOKENS, Engine, Request, generate
from ift.generation.likelihoods import log_likelihoods
from ift.model.config import GPTConfig, Rope
from ift.model.gpt import GPT
from ift.training.objectives import CrossEntropy
from tests.training.test_unpadded import rows

BORDER, CONTEXT, END = 12, 40, 49
SPREAD = (-3, -2, -1, 0, 1, 2)  # lengths around the border


def stretched(*, original: int = BORDER, context_length: int = CONTEXT, windows=()) -> GPT:
    rope = Rope(1e4, 8, "longrope", 3.0, original, scale=1.2, short=(1.0, 1.1, 1.2, 1.3), long=(2.0, 3.0, 4.0, 3.0))
    torch.manual_seed(3)
    model = GPT(
        GPTConfig(
            50,
            context_length,
            2,
            2,
            32,
            learned_positions=False,
            ropes=(rope,),
            rope_of=(0, 0),
            windows=windows,
            norm="rms",
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> GPT:
    return stretched()


def prompts(lengths, *, beginning=(), seed=4) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [[*beginning, *random.integers(0, END, n - len(beginning)).tolist()] for n in lengths]


@torch.no_grad()
def alone(model: GPT, prompt: list[int], new: int) -> list[int]:
    ids = list(prompt)
    for _ in range(new):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_the_two_ways_to_turn_give_other_answers(model):
    """Else nothing below would show anything: without the border the answers of rows that cross it differ."""
    crossing = prompts([BORDER - 2] * 8)
    assert sum(alone(model, p, 6) != alone(stretched(original=CONTEXT), p, 6) for p in crossing) > 4


@pytest.mark.parametrize(
    ("batch_size", "check_every", "beginning"), [(1, 5, ()), (3, 1, (7, 3, 9, 9, 1)), (30, 5, (7, 3, 9, 9, 1))]
)
def test_a_row_that_grows_over_the_border_is_answered_as_if_computed_anew_at_each_token(
    model, batch_size, check_every, beginning
):
    asked = prompts([BORDER + n for n in (*SPREAD, *SPREAD, -6, 9)], beginning=beginning)
    answers = generate(model, asked, end_of_text=END, max_new_tokens=8, batch_size=batch_size, check_every=check_every)
    for prompt, answer in zip(asked, answers, strict=True):
        assert answer.ids == alone(model, prompt, 8)[: len(answer.ids)], len(prompt)  # END ends some of them
    assert sum(len(answer.ids) for answer in answers) > 8 * 10


def test_a_prompt_that_joins_in_pieces_is_of_its_whole_length_from_the_first():
    model = stretched(original=PIECE_TOKENS + 9, context_length=PIECE_TOKENS + 60)
    first, second = prompts([3, PIECE_TOKENS + 20])
    engine, answers = Engine(model, slots=2, capacity=PIECE_TOKENS + 60), {}
    for prompt in (first, second):
        said = answers.setdefault(len(prompt), [])
        engine.submit(Request(prompt=prompt, max_new_tokens=9, on_token=said.append))
        engine.step()
    while engine.busy:
        engine.step()
    assert list(answers.values()) == [alone(model, first, 9), alone(model, second, 9)]


def test_a_long_prompt_is_computed_in_pieces_of_one_row(monkeypatch):
    """Beyond a window, and longer than the border: what a forward holds is bounded, the answer is the same."""
    model = stretched(windows=(5, None))
    asked = prompts([30, 26, BORDER - 1, 27])
    monkeypatch.setattr("ift.generation.engine.PREFILL_TOKENS", 7)
    sizes = []
    hook = model.h[0].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    answers = generate(model, asked, end_of_text=END, max_new_tokens=5)
    hook.remove()
    assert max(sizes) == 7
    for prompt, answer in zip(asked, answers, strict=True):
        assert answer.ids == alone(model, prompt, 5)[: len(answer.ids)], len(prompt)


def test_likelihoods_are_those_of_each_row_alone(model):
    asked = prompts([BORDER + n for n in SPREAD] * 2, beginning=range(9))
    windows = [(np.array(ids[:-3]), np.array(ids[-3:])) for ids in asked]
    found = log_likelihoods(model, windows, batch_tokens=1000)
    for (given, scored), (total, _) in zip(windows, found, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*given, *scored[:-1]]]))[0, len(given) - 1 :]
        assert total == pytest.approx(torch.log_softmax(logits, -1)[range(3), scored].sum().item(), abs=1e-4)


@pytest.mark.parametrize("lengths", [(2, 3, 1), (9, 12, 15), (2, 9, 4, 12)])
def test_loss_of_a_batch_is_that_of_its_rows_alone_padded_or_not(lengths):
    """Shared with rows of the same side alone; the padding of a short row does not make it a long one."""
    model, examples = stretched().train(), rows(lengths, template=range(9))
    one_by_one = sum(CrossEntropy()(model, collate_padded([e], end_of_text=END)).loss.item() for e in examples)
    padded = collate_padded(examples, end_of_text=END, pad_to=30)
    unpadded = collate_unpadded(examples, end_of_text=END, share_prefix=True, border=BORDER)
    assert (unpadded.prefix > 0) == (len({e.tokens > BORDER for e in examples}) == 1)
    for batch in (padded, unpadded):
        assert CrossEntropy()(model, batch).loss.item() == pytest.approx(one_by_one, rel=1e-6)
