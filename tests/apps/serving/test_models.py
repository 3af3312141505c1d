"""Other people's clients against the real server, and its numbers against those that are computed here."""

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

from ift.evaluation.harness.adapter import IftLM
from ift.evaluation.subject import Subject

PAIRS = [
    *(("The sky is", f" {colour}") for colour in ("blue", "green", "made of cheese, and nobody minds")),
    *(("2 + 2 =", f" {number}") for number in range(5)),
    ("Grüße aus 東京", " 😀"), ("a", "b"), ("x" * 120, "y" * 100), ("Line one\n", "Line two"),
]  # fmt: skip


def requests(kind: str, *arguments) -> list[Instance]:
    return [Instance(kind, {}, one, number) for number, one in enumerate(arguments)]


@pytest.fixture(scope="module")
def harness(server, runs):
    """lm-evaluation-harness's own client of servers, with the tokenizer of the model's folder."""

    def harness(**more):
        return LocalCompletionsAPI(
            base_url=f"{server.url}/completions",
            model="one",
            tokenizer=str(runs[0] / "model"),
            tokenizer_backend="huggingface",
            max_length=257,
            **more,
        )

    return harness


@pytest.fixture(scope="module")
def adapter(served) -> IftLM:
    speaker = served.speaker
    return IftLM(Subject("tuned", speaker.model, speaker.tokenizer, speaker.template), prompt="raw", batch_size=None)


@pytest.mark.parametrize(
    "more", [{"batch_size": 1}, {"batch_size": 5}, {"num_concurrent": 4}, {"tokenized_requests": False}]
)
def test_likelihoods_by_way_of_the_server_are_those_of_the_adapter(harness, adapter, more):
    expected = adapter.loglikelihood(requests("loglikelihood", *PAIRS))
    found = harness(**more).loglikelihood(requests("loglikelihood", *PAIRS))
    for (logprob, greedy), (own, own_greedy) in zip(found, expected, strict=True):
        assert logprob == pytest.approx(own, rel=1e-6)
        assert greedy == own_greedy
    assert len({round(logprob, 3) for logprob, _ in found}) > 8


def test_texts_by_way_of_the_server_are_those_of_the_adapter(harness, adapter):
    ways = [(prompt, {"until": ["v", "\n\n"], "max_gen_toks": 30}) for prompt, _ in PAIRS]
    expected = adapter.generate_until(requests("generate_until", *ways))
    assert harness(batch_size=4).generate_until(requests("generate_until", *ways)) == expected
    assert len(set(expected)) > 4


def test_chats_by_way_of_the_server_are_the_models_own(server, served):
    lm = LocalChatCompletion(base_url=f"{server.url}/chat/completions", model="one")
    chats = [lm.apply_chat_template([{"role": "user", "content": text}]) for text in ("Name a colour.", "And?")]
    found = lm.generate_until(requests("generate_until", *((chat, {"max_gen_toks": 20}) for chat in chats)))
    speaker = served.speaker
    own = IftLM(
        Subject("tuned", speaker.model, speaker.tokenizer, speaker.template), prompt="template", batch_size=None
    )
    ways = [(text, {"until": [], "max_gen_toks": 20}) for text in ("Name a colour.", "And?")]
    assert found == [text.strip() for text in own.generate_until(requests("generate_until", *ways))]
