"""Decoding: a batched answer is the answer of the row alone, stops where it should, and requests come and go."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from ift.generation.engine import PIECE_TOKENS, Engine, Generated, Request, generate
from ift.generation.sampling import Sampling
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


def test_each_answer_is_reported_as_it_ends_with_its_place_in_the_list(model, prompts):
    reported, before = [], []
    answers = greedy(
        model,
        prompts,
        batch_size=3,
        ended=lambda place, answer: reported.append((place, answer)),
        progress=lambda rows: before.append(len(reported)),
    )
    assert len(reported) == len(prompts)
    assert dict(reported) == dict(enumerate(answers))
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


@pytest.mark.parametrize("check_every", [1, 4])
def test_the_repetition_penalty_is_that_of_transformers_over_prompt_and_answer(model, prompts, check_every):
    processor = RepetitionPenaltyLogitsProcessor(penalty=1.7)

    def penalised(prompt: list[int]) -> Generated:
        ids = torch.tensor([prompt])
        for _ in range(8):
            with torch.no_grad():
                token = processor(ids, model(ids)[:, -1]).argmax()
            if token == END or ids.shape[1] == CONTEXT:
                return Generated(ids[0, len(prompt) :].tolist(), "end" if token == END else "context")
            ids = torch.cat([ids, token[None, None]], dim=1)
        return Generated(ids[0, len(prompt) :].tolist(), "length")

    answers = generate(
        model, prompts, end_of_text=END, max_new_tokens=8, batch_size=7, check_every=check_every,
        sampling=Sampling(repetition_penalty=1.7),
    )  # fmt: skip
    assert answers == [penalised(prompt) for prompt in prompts]
    assert answers != [alone(model, prompt, 8) for prompt in prompts]


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


def test_sampled_tokens_follow_the_softmax_of_the_model(model):
    """Chi-square over 29 degrees of freedom: a fair sample stays below 58.3 in 999 of 1000 cases."""
    n, prompt = 6000, [4, 2]
    answers = greedy(model, [prompt] * n, max_new_tokens=1, sampling=Sampling(1.5, seed=5), batch_size=1000)
    counts = Counter(answer.ids[0] if answer.ids else END for answer in answers)
    with torch.no_grad():
        expected = (model(torch.tensor([prompt]))[0, -1].double() / 1.5).softmax(dim=-1) * n
    assert sum((counts[token] - e) ** 2 / e for token, e in enumerate(expected.tolist())) < 58.3
    assert expected.max() < 0.9 * n  # not one token alone


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


def test_a_row_ends_where_until_says_so_and_the_others_go_on(model, prompts):
    plain = greedy(model, prompts)
    stop = plain[0].ids[2]
    found = greedy(model, prompts, until=lambda ids: ids[-1] == stop)
    for answer, whole in zip(found, plain, strict=True):
        if stop in whole.ids:
            assert (answer.ids, answer.stop_reason) == (whole.ids[: whole.ids.index(stop) + 1], "stop")
        else:
            assert answer == whole


# -- requests that join and leave -----------------------------------------------------------------------------------


def request(prompt: list[int], answers: dict[str, Generated], name: str, **options) -> Request:
    """A request whose answer goes to `answers` under a name, and which must end once."""

    def on_end(answer: Generated) -> None:
        assert name not in answers
        answers[name] = answer

    options = {"max_new_tokens": 12, "end_tokens": {END}, **options}
    return Request(prompt=prompt, on_end=on_end, **options)


def run_out(engine: Engine) -> None:
    while engine.busy:
        engine.step()


@pytest.fixture(scope="module")
def long_model() -> GPT:
    """The same, with positions for prompts of several pieces, and answers that seldom end."""
    torch.manual_seed(3)
    model = GPT(GPTConfig(VOCABULARY, 4 * PIECE_TOKENS, n_layer=2, n_head=2, n_embd=32))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return model.eval()


def pieces(model: GPT, engine: Engine, steps: int) -> list[list[int]]:
    """Tokens that each forward of each step computes."""
    sizes: list[list[int]] = []
    hook = model.h[0].register_forward_hook(lambda module, inputs, output: sizes[-1].append(len(output)))
    for _ in range(steps):
        sizes.append([])
        engine.step()
    hook.remove()
    return sizes


def test_requests_that_come_one_by_one_get_the_answers_of_their_prompts_alone(model, prompts):
    engine, answers = Engine(model, slots=5, capacity=CONTEXT), {}
    for number, prompt in enumerate(prompts):
        engine.submit(request(prompt, answers, number))
        if number % 3:
            engine.step()
    run_out(engine)
    assert [answers[number] for number in range(40)] == [alone(model, prompt, 12) for prompt in prompts]


def test_each_token_is_given_once_and_in_order_while_the_row_goes_on(model, prompts):
    engine, answers, tokens, seen = Engine(model, slots=4, capacity=CONTEXT), {}, {}, []
    for number, prompt in enumerate(prompts):
        tokens[number] = []
        engine.submit(request(prompt, answers, number, on_token=tokens[number].append))
    while engine.busy:
        engine.step()
        seen.append(sum(map(len, tokens.values())))
    assert [tokens[number] for number in range(40)] == [answers[number].ids for number in range(40)]
    assert [answers[number] for number in range(40)] == [alone(model, prompt, 12) for prompt in prompts]
    assert max(after - before for before, after in pairwise(seen)) <= 4  # one a row and step


def test_requests_of_one_batch_differ_in_all_they_ask_for(model, prompts):
    """Each answer is what `generate` gives where all prompts ask for the same."""
    kinds = [
        {"sampling": Sampling()},
        {"sampling": Sampling(1.0, seed=1)},
        {"sampling": Sampling(0.7, top_k=8, seed=1)},
        {"sampling": Sampling(1.3, top_p=0.8), "max_new_tokens": 5},
        {"until": lambda ids: len(ids) == 2},
    ]
    engine, answers = Engine(model, slots=40, capacity=CONTEXT), {}
    for number, prompt in enumerate(prompts):
        options = dict(kinds[number % 5])
        if "sampling" in options:
            options["sampling"] = replace(options["sampling"], stream=number)
        engine.submit(request(prompt, answers, number, **options))
    run_out(engine)
    for kind, options in enumerate(kinds):
        expected = greedy(model, prompts, **options)
        assert [answers[n] for n in range(kind, 40, 5)] == expected[kind::5]


def test_an_answer_ends_before_any_of_its_end_tokens(model, prompts):
    whole = greedy(model, [prompts[0]])[0].ids
    answers: dict = {}
    engine = Engine(model, slots=2, capacity=CONTEXT)
    engine.submit(request(prompts[0], answers, "two ends", end_tokens={END, whole[2]}))
    engine.submit(request(prompts[0], answers, "one end"))
    run_out(engine)
    assert answers["two ends"] == Generated(whole[: whole.index(whole[2])], "end")
    assert answers["one end"].ids == whole


def test_a_long_prompt_that_joins_holds_a_stream_up_by_one_piece_a_step(long_model):
    long, short = [1 + n % 7 for n in range(3 * PIECE_TOKENS + 5)], [4, 2]
    engine, answers, tokens = Engine(long_model, slots=2, capacity=4 * PIECE_TOKENS), {}, []
    engine.submit(request(short, answers, "short", end_tokens=(), max_new_tokens=8, on_token=tokens.append))
    engine.step()
    engine.submit(request(long, answers, "long", end_tokens=(), max_new_tokens=3))
    assert pieces(long_model, engine, 5) == [[1, PIECE_TOKENS]] * 3 + [[1, 5], [2]]
    assert len(tokens) == 6  # one a step
    run_out(engine)
    expected = [
        generate(long_model, [prompt], end_of_text=-1, max_new_tokens=n) for prompt, n in ((short, 8), (long, 3))
    ]
    assert [[answers["short"]], [answers["long"]]] == expected


def test_a_long_prompt_is_computed_at_once_where_nobody_streams(long_model):
    long, short = [1 + n % 7 for n in range(3 * PIECE_TOKENS)], [4, 2]
    engine, answers = Engine(long_model, slots=2, capacity=4 * PIECE_TOKENS, check_every=1), {}
    engine.submit(request(short, answers, "short", end_tokens=(), max_new_tokens=8))
    engine.step()
    engine.submit(request(long, answers, "long", end_tokens=(), max_new_tokens=3))
    assert pieces(long_model, engine, 1) == [[1, 3 * PIECE_TOKENS]]


def test_short_prompts_that_join_a_stream_share_a_piece(long_model):
    engine, answers = Engine(long_model, slots=8, capacity=4 * PIECE_TOKENS), {}
    engine.submit(request([4, 2], answers, "stream", end_tokens=(), on_token=lambda token: None))
    engine.step()
    for name in range(4):
        engine.submit(request([3] * (PIECE_TOKENS // 2), answers, name, end_tokens=()))
    assert pieces(long_model, engine, 3) == [[1, PIECE_TOKENS], [3, PIECE_TOKENS], [5]]


@pytest.mark.parametrize("stage", ["waiting", "in pieces", "decoding", "from a callback"])
def test_a_request_that_is_cancelled_leaves_its_slot_to_the_next_and_the_others_as_they_were(long_model, stage):
    prompts = {
        "first": [4, 2],
        "gone": [1 + n % 7 for n in range(2 * PIECE_TOKENS)] if stage == "in pieces" else [5, 6, 1],
        "next": [9, 8, 7, 6],
    }
    expected = {
        name: generate(long_model, [prompt], end_of_text=-1, max_new_tokens=12)[0] for name, prompt in prompts.items()
    }
    engine, answers, cancelled = Engine(long_model, slots=2, capacity=4 * PIECE_TOKENS), {}, []

    def on_token(token: int) -> None:
        if stage == "from a callback" and len(cancelled) < 3:
            cancelled.append(len(cancelled) == 2 and engine.cancel(gone))

    options = {"end_tokens": (), "max_new_tokens": 12}
    engine.submit(request(prompts["first"], answers, "first", on_token=on_token, **options))
    engine.step()
    gone = engine.submit(request(prompts["gone"], answers, "gone", on_token=lambda token: None, **options))
    engine.submit(request(prompts["next"], answers, "next", **options))
    for _ in range({"waiting": 0, "in pieces": 1, "decoding": 2, "from a callback": 2}[stage]):
        engine.step()
    if stage == "from a callback":
        assert cancelled == [False, False, True]
    else:
        assert engine.cancel(gone)
    assert not engine.cancel(gone)
    assert answers["gone"].stop_reason == "cancelled"
    assert answers["gone"].ids == expected["gone"].ids[: {"decoding": 2, "from a callback": 1}.get(stage, 0)]
    assert max(map(len, pieces(long_model, engine, 1))) == 2  # a step of the first, and the prompt of the next
    run_out(engine)
    assert answers["first"] == expected["first"]
    assert answers["next"] == expected["next"]


def test_a_cancelled_request_in_the_middle_gives_its_slot_to_the_last_row(model, prompts):
    engine, answers = Engine(model, slots=6, capacity=CONTEXT), {}
    some = [prompt[:6] for prompt in prompts[:8]]
    numbers = [engine.submit(request(prompt, answers, n)) for n, prompt in enumerate(some)]
    engine.step()
    engine.step()
    assert not answers
    assert [engine.cancel(numbers[n]) for n in (1, 4)] == [True, True]
    run_out(engine)
    assert not engine.cancel(numbers[0])
    assert not engine.cancel(99)
    for n, prompt in enumerate(some):
        whole = alone(model, prompt, 12)
        assert answers[n] == (Generated(whole.ids[:2], "cancelled") if n in (1, 4) else whole)


def test_prompts_with_and_without_the_prefix_share_the_slots(model, prompts):
    prefix = [7, 3, 9, 9, 1]
    mixed = [[*prefix, *prompt[:15]] if n % 3 else prompt for n, prompt in enumerate(prompts)]
    mixed += [prefix, prefix[:3], [*prefix, 2]]
    for streams in (False, True):
        engine, answers = Engine(model, slots=4, capacity=CONTEXT, prefix=prefix), {}
        for number, prompt in enumerate(mixed):
            on_token = (lambda token: None) if streams else None
            engine.submit(request(prompt, answers, number, on_token=on_token))
        run_out(engine)
        assert [answers[n] for n in range(len(mixed))] == [alone(model, prompt, 12) for prompt in mixed]


def test_the_prefix_is_computed_once_and_again_only_where_no_slot_holds_it(model):
    prefix, answers = [7, 3, 9, 9, 1], {}
    engine = Engine(model, slots=1, capacity=CONTEXT, prefix=prefix)
    for number, prompt in enumerate([[*prefix, 2], [*prefix, 3, 4], [5, 6], [*prefix, 2], [*prefix, 2, 2]]):
        engine.submit(request(prompt, answers, number, max_new_tokens=1))
    assert pieces(model, engine, 5) == [[1], [2], [2], [6], [2]]


def test_a_row_ends_with_the_positions_of_the_engine():
    engine, answers = Engine(always(5), slots=3, capacity=6), {}
    for length in (1, 4, 6):
        engine.submit(request([1] * length, answers, length, max_new_tokens=50))
    run_out(engine)
    assert answers == {n: Generated([5] * (6 - n), "context") for n in (1, 4, 6)}


@pytest.mark.parametrize(
    ("prompt", "max_new_tokens", "message"),
    [([], 5, "0 tokens"), ([1] * 25, 5, "25 tokens.*1 to 24"), ([1], 0, "max_new_tokens=0")],
)
def test_a_request_that_cannot_be_answered_is_refused(model, prompt, max_new_tokens, message):
    engine = Engine(model, slots=1, capacity=10 * CONTEXT)  # no more than the model has
    with pytest.raises(ValueError, match=message):
        engine.submit(Request(prompt=prompt, max_new_tokens=max_new_tokens))
    assert not engine.busy


def test_a_model_in_training_mode_does_not_answer():
    model = GPT(GPTConfig(VOCABULARY, CONTEXT, 1, 2, 32, dropout=0.5)).train()
    with pytest.raises(ValueError, match="training mode"):
        Engine(model, slots=1, capacity=CONTEXT)
    engine = Engine(model.eval(), slots=1, capacity=CONTEXT)
    engine.submit(Request(prompt=[1], max_new_tokens=1))
    model.train()
    with pytest.raises(ValueError, match="training mode"):
        engine.step()


def test_an_engine_goes_on_after_a_callback_that_failed(model, prompts):
    engine, answers, failures = Engine(model, slots=3, capacity=CONTEXT), {}, []

    def fail_once(token: int) -> None:
        if not failures:
            failures.append(token)
            raise KeyError(token)

    engine.submit(request(prompts[0], answers, 0, on_token=fail_once))
    engine.submit(request(prompts[1], answers, 1))
    with pytest.raises(KeyError):
        engine.step()
    run_out(engine)
    assert [answers[0], answers[1]] == [alone(model, prompt, 12) for prompt in prompts[:2]]


def test_requests_that_could_not_join_wait_for_the_next_step(model, prompts, monkeypatch):
    """A device may be out of memory for a moment."""
    engine, answers, hidden = Engine(model, slots=3, capacity=CONTEXT), {}, GPT.hidden
    engine.submit(request(prompts[0], answers, 0))
    engine.step()
    for number in (1, 2):
        engine.submit(request(prompts[number], answers, number))

    def fail(self, ids, *more):
        if len(ids) > 1:
            raise torch.OutOfMemoryError
        return hidden(self, ids, *more)

    monkeypatch.setattr(GPT, "hidden", fail)
    with pytest.raises(torch.OutOfMemoryError):
        engine.step()
    monkeypatch.setattr(GPT, "hidden", hidden)
    run_out(engine)
    assert [answers[number] for number in range(3)] == [alone(model, prompt, 12) for prompt in prompts[:3]]


def test_until_may_cancel_its_own_request_and_it_ends_once(model, prompts):
    engine, ends = Engine(model, slots=2, capacity=CONTEXT), []
    number = engine.submit(
        Request(prompt=prompts[0], max_new_tokens=9, until=lambda ids: engine.cancel(number), on_end=ends.append)
    )
    run_out(engine)
    assert [end.stop_reason for end in ends] == ["cancelled"]


def test_until_that_fails_at_the_last_token_leaves_the_engine_and_the_others_usable(model, prompts):
    engine, answers, tokens = Engine(model, slots=3, capacity=CONTEXT), {}, []

    def fails(ids: list[int]) -> bool:
        raise KeyError(len(ids))

    engine.submit(request(prompts[0], answers, 0, max_new_tokens=1, until=fails, on_token=tokens.append))
    engine.submit(request(prompts[1], answers, 1))
    with pytest.raises(KeyError):
        engine.step()
    run_out(engine)
    assert answers[0] == alone(model, prompts[0], 1)
    assert tokens == answers[0].ids
    assert answers[1] == alone(model, prompts[1], 12)


def test_an_end_that_fails_to_be_reported_loses_no_other(model, prompts):
    engine, answers = Engine(model, slots=3, capacity=CONTEXT), {}

    def fails(answer: Generated) -> None:
        raise KeyError("gone")

    engine.submit(Request(prompt=prompts[0], max_new_tokens=1, on_end=fails))
    engine.submit(request(prompts[1], answers, 1, max_new_tokens=1))
    with pytest.raises(KeyError, match="gone"):
        engine.step()
    assert not engine.busy
    assert answers[1] == alone(model, prompts[1], 1)


@pytest.mark.parametrize(
    "options", [{"slots": 0, "capacity": 8}, {"slots": 1, "capacity": 8, "prefix": [1] * 8}], ids=["slots", "prefix"]
)
def test_an_engine_that_could_answer_nothing_is_refused(model, options):
    with pytest.raises(ValueError, match=r"must be 1 or more|must leave room"):
        Engine(model, **options)


@pytest.mark.parametrize("values", [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"temperature": -1.0}])
def test_sampling_that_leaves_nothing_to_choose_is_refused(values):
    with pytest.raises(ValueError, match="temperature must be 0 or more, top_k 1 or more"):
        Sampling(**values)


def test_a_model_may_have_ends_of_its_own(model, prompts):
    """Its second token ends the answer where the model's folder names it."""
    prompt = next(p for p in prompts if len(set(alone(model, p, 3).ids[:2])) == 2)
    first, second, *_ = alone(model, prompt, 3).ids
    model.stops = frozenset({second})
    try:
        [answer] = generate(model, [prompt], end_of_text=END, max_new_tokens=3)
    finally:
        model.stops = frozenset()
    assert answer == Generated([first], "end")


def test_after_a_long_row_short_ones_do_not_read_the_room_it_had(make_model):
    """A server runs for weeks: 32 positions more than twice what is in use are given back, and answers stay."""
    model = make_model(seed=5, context_length=512).eval()
    short = Request(prompt=[1, 2, 3], max_new_tokens=12)
    answers: list[Generated] = []
    engine = Engine(model, slots=2, capacity=512, prefix=[1, 2])
    engine.submit(replace(short, on_end=answers.append))
    while engine.busy:
        engine.step()
    engine.submit(Request(prompt=[7] * 400, max_new_tokens=5))
    engine.submit(replace(short, on_end=answers.append))
    most = 0
    while engine.busy:
        engine.step()
        most = max(most, engine._cache.room)
    assert (most, engine._cache.room) == (416, 32)
    engine.submit(replace(short, on_end=answers.append))
    while engine.busy:
        engine.step()
    assert len(answers) == 3
    assert answers[0] == answers[1] == answers[2]
