"""How likely tokens were: by the engine as they come, and for a given text, against the plain softmax."""

import pytest
import torch

from ift.generation.engine import Engine, Request
from ift.generation.likelihoods import token_likelihoods
from ift.generation.likely import likeliest
from ift.generation.sampling import Sampling
from ift.model.linear import prepared


def test_the_numbers_are_those_of_the_softmax_over_all_rows_of_the_head():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]]))
    first, second = likeliest(logits, torch.tensor([1, 2]), 2, 3).likely([2, 1])
    assert (first.token, [token for token, _ in first.top]) == (1, [0, 1])
    assert first.logprob == first.top[1][1] == pytest.approx(-1.3862944)
    assert [token for token, _ in second.top] == [2]  # 3 is no token
    assert second.logprob == second.top[0][1] == pytest.approx(-1.2039728)


@pytest.mark.parametrize("check_every", [1, 4])
def test_the_engine_tells_what_each_token_had_before_any_sampling(make_model, check_every):
    model = make_model(seed=2, context_length=64).eval()
    ways = [Sampling(), Sampling(1.5, seed=1), Sampling(0.8, top_k=3, seed=2, repetition_penalty=1.3)]
    told = [[] for _ in ways]
    answers = {}
    with prepared(model):
        engine = Engine(model, slots=4, capacity=40, check_every=check_every)
        for number, sampling in enumerate(ways):
            engine.submit(
                Request(
                    prompt=[5, 6, number],
                    max_new_tokens=20,
                    sampling=sampling,
                    on_likely=told[number].append,
                    top=number,
                    on_end=lambda answer, number=number: answers.update({number: answer.ids}),
                )
            )
        engine.submit(Request(prompt=[1], max_new_tokens=30))  # one that does not ask
        while engine.busy:
            engine.step()
    for number, found in enumerate(told):
        assert [one.token for one in found] == answers[number]
        ids = [5, 6, number, *answers[number]]
        with torch.no_grad():
            plain = model(torch.tensor([ids]))[0].log_softmax(dim=-1)
        for place, one in enumerate(found, start=2):
            assert one.logprob == pytest.approx(float(plain[place, one.token]), abs=1e-5)
            values, tokens = plain[place].topk(number)
            assert [token for token, _ in one.top] == tokens.tolist()
            assert [value for _, value in one.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_each_token_of_a_text_has_its_number_and_the_next_one_is_told(make_model):
    model = make_model(seed=4, vocab_size=50, tokens=45, context_length=64).eval()
    rows = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, number] for number in (3, 4, 3)]
    rows += [[7], [7, 8]]
    for row, found in zip(rows, token_likelihoods(model, rows, top=2), strict=True):
        with torch.no_grad():
            plain = model.logits(model.hidden(torch.tensor([row])), every_id=True)[0].log_softmax(dim=-1)
        assert [one.token for one in found] == [*row[1:], int(plain[-1, :45].argmax())]
        for place, one in enumerate(found):
            assert one.logprob == pytest.approx(float(plain[place, one.token]), abs=1e-5)
            assert [token for token, _ in one.top] == plain[place, :45].topk(2).indices.tolist()
        assert found[-1].logprob == found[-1].top[0][1]
