"""Decoding: a batched answer is the answer of the row alone, stops where it should, and choices follow their odds."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from ift.generation.engine import Generated, Sampling, _stream, choose, generate
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.model.linear import compute_in

VOCABULARY, CONTEXT, END = 30, 24, 29


@pytest.fixture(scope="module")
def model() -> GPT:
    """Weights so large that answers vary from prompt to prompt, and some end early."""
    torch.manual_seed(3)
    model = GPT(GPTConfig(VOCABULARY, CONTEXT, n_layer=2, n_head=2, n_embd=32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return model.eval()


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """40 prompts of 1 to 23 tokens, in no order."""
    random = np.random.default_rng(4)
    return [random.integers(0, END, size=int(length)).tolist() for length in random.integers(1, CONTEXT, size=40)]


def alone(model: GPT, prompt: list[int], max_new_tokens: int) -> Generated:
    """Greedy decoding as one would write it first: no cache, no batch, the whole row at each token."""
    ids = list(prompt)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            token = int(model(torch.tensor([ids]))[0, -1].argmax())
        if token == END:
            return Generated(ids[len(prompt) :], "end")
        if len(ids) == CONTEXT:
            return Generated(ids[len(prompt) :], "context")
        ids.append(token)
    return Generated(ids[len(prompt) :], "length")


def greedy(model: GPT, prompts: list[list[int]], *, max_new_tokens: int = 12, **options) -> list[Generated]:
    return generate(model, prompts, end_of_text=END, max_new_tokens=max_new_tokens, **options)


# -- batches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check_every", [1, 5, None])
@pytest.mark.parametrize("batch_size", [1, 2, 7, 40, 100])
def test_a_batched_answer_is_the_answer_of_the_row_alone(model, prompts, batch_size, check_every):
    expected = [alone(model, prompt, 12) for prompt in prompts]
    assert greedy(model, prompts, batch_size=batch_size, check_every=check_every) == expected
    # and there was something to get wrong
    assert {answer.stop_reason for answer in expected} == {"end", "length", "context"}
    assert len({tuple(answer.ids) for answer in expected}) > 30
    assert len({len(answer.ids) for answer in expected}) > 8


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_prompts_that_begin_alike_are_answered_as_if_alone(model, prompts, batch_size):
    alike = [[7, 3, 9, 9, 1, *prompt[:18]] for prompt in prompts]
    assert len({tuple(prompt) for prompt in alike}) > 30
    assert greedy(model, alike, batch_size=batch_size) == [alone(model, prompt, 12) for prompt in alike]


def tokens_of_forwards(model, prompts, **options) -> tuple[list[int], list[Generated]]:
    sizes = []
    hook = model.h[0].register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    answers = greedy(model, prompts, **options)
    hook.remove()
    return sizes, answers


def test_rows_that_have_ended_are_not_computed_any_more(model, prompts):
    sizes, answers = tokens_of_forwards(model, prompts, batch_size=40)
    # after the prompts, forward number n takes in token n of each answer that has one and goes on after it
    asked = [len(answer.ids) + (answer.stop_reason != "length") for answer in answers]
    assert sizes == [sum(map(len, prompts)), *(sum(n > step for n in asked) for step in range(1, 12))]
    assert 40 >= sizes[1] > sizes[-1] > 0


def test_what_all_prompts_begin_with_is_computed_once(model):
    sizes, _ = tokens_of_forwards(model, [[1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 2, 3]], max_new_tokens=1)
    assert sizes == [2, 1 + 2 + 3]  # 1 2, once; each prompt has a token of its own left to answer from


def test_prompts_take_the_places_of_rows_that_have_ended(model, prompts):
    sizes, answers = tokens_of_forwards(model, [p + [1] * (6 - len(p)) for p in prompts], batch_size=4)
    assert len({len(answer.ids) for answer in answers}) > 3
    steps = [size for size in sizes if size <= 4]  # a prompt has 6 tokens or more
    while steps[-1] < 4:  # the last rows have nobody to follow them
        steps.pop()
    assert sum(steps) / len(steps) > 3.2  # of a row that has just ended the place stays empty for one step


def test_each_answer_is_told_of_as_it_ends_with_its_place_in_the_list(model, prompts):
    told, before = [], []
    answers = greedy(
        model,
        prompts,
        batch_size=3,
        ended=lambda place, answer: told.append((place, answer)),
        progress=lambda rows: before.append(len(told)),
    )
    assert len(told) == len(prompts)
    assert dict(told) == dict(enumerate(answers))
    assert before[0] < 6  # not all at the end


def test_no_prompts_give_no_answers(model):
    assert greedy(model, []) == []


def test_progress_counts_every_prompt_once(model, prompts):
    done = []
    greedy(model, prompts, max_new_tokens=1, batch_size=16, progress=done.append)
    assert done == [16, 16, 8]


# -- where answers stop ---------------------------------------------------------------------------------------------


def always(token: int) -> GPT:
    """A model that says one token whatever it is asked: the norm gives its bias alone, the head sums it."""
    said = GPT(GPTConfig(VOCABULARY, CONTEXT, 1, 2, 32, tie_weights=False)).eval()
    with torch.no_grad():
        said.ln_f.weight.zero_()
        said.ln_f.bias.fill_(1.0)
        said.lm_head.weight.zero_()
        said.lm_head.weight[token] = 1.0
    return said


def test_an_answer_stops_at_max_new_tokens():
    assert greedy(always(5), [[1, 2]], max_new_tokens=3) == [Generated([5, 5, 5], "length")]


def test_an_answer_stops_at_end_of_text_and_does_not_hold_it():
    assert greedy(always(END), [[1, 2], [END]]) == [Generated([], "end")] * 2


def test_prompt_and_answer_fill_the_context_and_no_more():
    answers = greedy(always(5), [[1] * 22, [1] * 23, [1] * 24], max_new_tokens=50)
    assert answers == [Generated([5, 5], "context"), Generated([5], "context"), Generated([], "context")]


def test_an_answer_that_fills_the_context_exactly_may_still_end():
    """In training too the end-of-text is a target of the last position, though it never is an input."""
    assert greedy(always(END), [[1] * CONTEXT]) == [Generated([], "end")]


# -- sampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [Sampling(1.0, seed=1), Sampling(0.7, top_k=8, seed=1), Sampling(1.3, top_p=0.8)])
def test_a_sampled_answer_does_not_depend_on_the_batch(model, prompts, sampling):
    answers = {size: greedy(model, prompts, sampling=sampling, batch_size=size) for size in (1, 3, 40)}
    assert answers[1] == answers[3] == answers[40]
    assert answers[1] != greedy(model, prompts)


def test_sampled_answers_come_again_with_their_seed_and_only_then(model, prompts):
    first, again, other = (greedy(model, prompts, sampling=Sampling(1.0, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert sum(a != b for a, b in zip(first, other, strict=True)) > 30


def test_a_prompt_with_the_number_of_its_stream_is_answered_as_among_all(model, prompts):
    sampling = Sampling(temperature=1.0, seed=3)
    all_of_them = greedy(model, prompts, sampling=sampling)
    some = greedy(model, [prompts[0], prompts[30]], sampling=sampling, streams=[0, 30])
    assert some == [all_of_them[0], all_of_them[30]]


def test_sampling_does_not_touch_the_generators_of_training(model, prompts):
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    greedy(model, prompts, sampling=Sampling(1.0))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_one_prompt_asked_twice_may_get_two_answers(model):
    first, second = greedy(model, [[1, 2, 3]] * 2, sampling=Sampling(1.0))
    assert first != second


def test_each_token_is_drawn_anew():
    """All tokens alike: 23 draws of 30 give 16 different ones on average, and no end."""
    flat = always(5)
    with torch.no_grad():
        flat.lm_head.weight.zero_()
    answers = generate(flat, [[1]] * 20, end_of_text=-1, max_new_tokens=23, sampling=Sampling(1.0))
    assert sum(len(set(answer.ids)) for answer in answers) / 20 == pytest.approx(30 * (1 - (29 / 30) ** 23), abs=1)


def test_top_k_1_is_greedy(model, prompts):
    assert greedy(model, prompts, sampling=Sampling(2.0, top_k=1)) == greedy(model, prompts)


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


def test_sampled_tokens_follow_the_softmax_of_the_model(model):
    """Chi-square over 29 degrees of freedom: a fair sample stays below 58.3 in 999 of 1000 cases."""
    n, prompt = 6000, [4, 2]
    answers = greedy(model, [prompt] * n, max_new_tokens=1, sampling=Sampling(1.5, seed=5), batch_size=1000)
    counts = Counter(answer.ids[0] if answer.ids else END for answer in answers)
    with torch.no_grad():
        expected = (model(torch.tensor([prompt]))[0, -1].double() / 1.5).softmax(dim=-1) * n
    assert sum((counts[token] - e) ** 2 / e for token, e in enumerate(expected.tolist())) < 58.3
    assert expected.max() < 0.9 * n  # not one token alone


def test_numbers_of_a_row_are_uniform_and_rows_have_their_own():
    u = np.stack([_stream(0, row).random(50) for row in range(200)])
    assert u.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * u.size))
    assert len(np.unique(u)) == u.size
    one_by_one = _stream(0, 7)
    assert [one_by_one.random() for _ in range(50)] == u[7].tolist()


# -- around it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_as_before(model, prompts, training):
    dropping = GPT(GPTConfig(VOCABULARY, CONTEXT, 2, 2, 32, dropout=0.5))
    dropping.load_state_dict(model.state_dict())
    dropping.train(training)
    assert greedy(dropping, prompts) == greedy(model, prompts)  # no dropout in the answers
    assert {module.training for module in dropping.modules()} == {training}

    def fail(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        greedy(dropping, prompts, progress=fail)
    assert {module.training for module in dropping.modules()} == {training}


def test_in_bf16_the_choice_is_the_same_where_it_is_clear(model, prompts):
    whole = greedy(model, prompts, max_new_tokens=3)
    types = []
    hook = model.h[1].mlp.c_fc.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    compute_in(model, torch.bfloat16)
    half = greedy(model, prompts, max_new_tokens=3)
    compute_in(model, torch.float32)
    hook.remove()
    assert set(types) == {torch.bfloat16}
    clear = 0
    for prompt, a, b in zip(prompts, half, whole, strict=True):
        with torch.no_grad():
            first, second = model(torch.tensor([prompt]))[0, -1].topk(2).values.tolist()
        if first - second > 1.0:
            clear += 1
            assert (a.ids[:1], a.ids == []) == (b.ids[:1], b.ids == [])
    assert clear > 10


def test_a_row_ends_where_it_is_told_to_and_the_others_go_on(model, prompts):
    plain = greedy(model, prompts)
    stop = plain[0].ids[2]
    found = greedy(model, prompts, until=lambda ids: ids[-1] == stop)
    for answer, whole in zip(found, plain, strict=True):
        if stop in whole.ids:
            assert (answer.ids, answer.stop_reason) == (whole.ids[: whole.ids.index(stop) + 1], "stop")
        else:
            assert answer == whole
