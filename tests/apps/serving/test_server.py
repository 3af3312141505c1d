"""The real server, in a process of its own, asked by OpenAI's own client and by hand."""

import asyncio
import http.client
import json
import socket
import time
from importlib.resources import files
from types import SimpleNamespace

import openai
import pytest

from ift.apps.serving.choices import Piece
from ift.apps.serving.server import UNREAD, Api, Inbox
from ift.data.reading.rows import Row
from ift.evaluation.responses import respond
from ift.generation.engine import generate
from ift.generation.likelihoods import log_likelihoods
from ift.generation.sampling import Sampling
from ift.settings import GenerateSettings
from ift.text.conversations import Conversation

QUESTIONS = [f"Question number {number}, {'long ' * (number % 5)}?" for number in range(32)]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def user(text: str) -> list:
    return [{"role": "user", "content": text}]


def ask(client, text="Name a colour.", **more):
    return client.chat.completions.create(model="one", messages=user(text), **{"max_tokens": 40, **more})


# -- answers -----------------------------------------------------------------------------------------------------------


def test_answers_are_those_that_responses_has(server, client, served):
    rows = [Row(text, "", "", file="", number=number) for number, text in enumerate(QUESTIONS[:8])]
    speaker = served.speaker
    settings = GenerateSettings(40, 0.0, None, None, None)
    expected = respond(speaker.model, rows, speaker.template, speaker.tokenizer, settings)
    for row, one in zip(rows, expected, strict=True):
        answer = ask(client, row.instruction, temperature=0)
        assert answer.choices[0].message.content == one["response"]
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
            one["prompt_tokens"],
            one["response_tokens"],
        )
        assert answer.choices[0].finish_reason == {"end": "stop", "length": "length"}[one["stop_reason"]]
    assert len({one["response"] for one in expected}) > 5


def test_a_stream_says_what_the_whole_answer_says(client):
    whole = ask(client, temperature=0.9, seed=5, n=3)
    chunks = list(ask(client, temperature=0.9, seed=5, n=3, stream=True, stream_options={"include_usage": True}))
    texts, ends = {0: "", 1: "", 2: ""}, {}
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        (choice,) = chunk.choices
        assert choice.index not in ends
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            assert not choice.delta.content
            ends[choice.index] = choice.finish_reason
    assert [texts[choice.index] for choice in whole.choices] == [choice.message.content for choice in whole.choices]
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}
    assert [chunk.choices[0].delta.role for chunk in chunks[:3]] == ["assistant"] * 3
    assert len(set(texts.values())) == 3


def test_an_answer_with_a_seed_is_the_same_whoever_is_beside_it(server, client):
    alone = [ask(client, text, temperature=1, seed=number) for number, text in enumerate(QUESTIONS)]

    async def together():
        async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
            return await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model="one", messages=user(text), max_tokens=40, temperature=1, seed=number
                    )
                    for number, text in enumerate(QUESTIONS)
                )
            )

    texts = [one.choices[0].message.content for one in asyncio.run(together())]
    assert texts == [one.choices[0].message.content for one in alone]
    assert len(set(texts)) == 32
    another = ask(client, QUESTIONS[0], temperature=1, seed=99)
    assert another.choices[0].message.content != texts[0]
    assert ask(client, temperature=1).choices != ask(client, temperature=1).choices  # and without one, another


def test_a_stop_string_ends_an_answer_before_it(client):
    text = ask(client, temperature=0, max_tokens=60).choices[0].message.content
    stop = text[11:14]
    answer = ask(client, temperature=0, max_tokens=60, stop=["never there", stop]).choices[0]
    assert answer.message.content == text.partition(stop)[0].strip()
    assert answer.finish_reason == "stop"
    chunks = ask(client, temperature=0, max_tokens=60, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer.message.content


def test_two_models_answer_by_their_names(client):
    names = [model.id for model in client.models.list()]
    assert names == ["one", "two"]
    assert client.models.retrieve("two").id == "two"
    texts = {
        name: client.chat.completions.create(model=name, messages=user("a"), max_tokens=30, temperature=0)
        for name in names
    }
    assert texts["one"].choices[0].message.content != texts["two"].choices[0].message.content
    assert texts["one"].system_fingerprint != texts["two"].system_fingerprint


def test_turns_and_a_system_text_stand_in_the_template(client, served):
    messages = [{"role": "system", "content": "s"}, *user("a"), {"role": "assistant", "content": "b"}, *user("c")]
    answer = client.chat.completions.create(model="one", messages=messages, max_tokens=1)
    conversation = Conversation("c", system="s", history=(("a", "b"),))
    assert answer.usage.prompt_tokens == len(served.speaker.prompt(conversation))


# -- log-probabilities -------------------------------------------------------------------------------------------------


def test_log_probabilities_of_chat_are_of_the_tokens_of_the_text(client):
    choice = ask(client, temperature=0, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes).decode(errors="replace").strip() == (
        choice.message.content
    )
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert (token.top_logprobs[0].token, token.top_logprobs[0].logprob) == (token.token, token.logprob)
        assert len({top.token for top in token.top_logprobs}) == 3
    streamed = ask(client, temperature=0, logprobs=True, top_logprobs=3, stream=True)
    chunks = [chunk.choices[0].logprobs for chunk in streamed if chunk.choices[0].logprobs]
    assert [token for chunk in chunks for token in chunk.content] == tokens


def test_an_echo_has_the_numbers_that_evaluations_have(client, served):
    """Sums over the end of a prompt against `log_likelihoods`, by which lm-evaluation-harness's tasks are scored."""
    import numpy as np

    prompts = [list(text.encode()) for text in ("abc def", "abc deg", "x", "Grüße 😀")]
    answer = client.completions.create(model="one", prompt=prompts, max_tokens=1, temperature=0, echo=True, logprobs=1)
    for prompt, choice in zip(prompts, answer.choices, strict=True):
        scores = choice.logprobs
        assert scores.token_logprobs[0] is None
        assert scores.top_logprobs[0] is None
        assert len(scores.tokens) == len(prompt) + (choice.finish_reason == "length")
        for begin in range(1, len(prompt)):
            window = (np.array(prompt[:begin]), np.array(prompt[begin:]))
            ((logprob, greedy),) = log_likelihoods(served.speaker.model, [window], batch_tokens=4096)
            own = scores.token_logprobs[begin : len(prompt)]
            assert sum(own) == pytest.approx(logprob, abs=1e-5)
            tops = scores.top_logprobs[begin : len(prompt)]
            assert all(one == max(top.values()) for one, top in zip(own, tops, strict=True)) == greedy
        assert choice.text.encode()[: len(prompt) - 1] == bytes(prompt)[:-1]


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_an_echo_goes_on_as_the_prompt_does(client, max_tokens):
    more = {"model": "one", "prompt": "Some words", "temperature": 0, "max_tokens": max_tokens}
    echoed = client.completions.create(**more, echo=True, logprobs=2).choices[0]
    assert echoed.text.startswith("Some words")
    assert echoed.logprobs.text_offset[:10] == list(range(10))
    if max_tokens:
        plain = client.completions.create(**more, logprobs=2).choices[0]
        assert echoed.text == "Some words" + plain.text
        assert echoed.logprobs.tokens[10:] == plain.logprobs.tokens
        assert echoed.logprobs.token_logprobs[10:] == pytest.approx(plain.logprobs.token_logprobs, abs=1e-5)
    chunks = list(client.completions.create(**more, echo=True, logprobs=2, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == echoed.text


def test_completions_are_those_of_the_engine(client, served):
    prompts = [list(text.encode()) for text in QUESTIONS[:6]]
    speaker = served.speaker
    expected = generate(
        speaker.model, prompts, end_of_text=256, max_new_tokens=20, sampling=Sampling(0.8, 40, 0.9, seed=3)
    )
    answer = client.completions.create(
        model="one", prompt=prompts, max_tokens=20, temperature=0.8, top_p=0.9, seed=3, extra_body={"top_k": 40}
    )
    texts = [speaker.tokenizer.decode(one.ids) for one in expected]
    assert [choice.text for choice in answer.choices] == texts
    assert answer.usage.completion_tokens == sum(len(one.ids) for one in expected)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_prompt_that_is_too_long_is_refused_by_the_code_that_clients_know(client, served):
    for text in ("x" * 256, "x" * 200_000):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, text)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    room = 255 - len(served.speaker.prompt(Conversation("")))
    answer = ask(client, "x" * room, max_tokens=200, temperature=0)
    assert answer.usage.completion_tokens <= 1
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        ask(client, max_tokens=257)


def test_what_the_model_has_not_is_refused(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="three", messages=user("a"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="one", prompt=[1, 257])
    assert caught.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, tools=[{"type": "function", "function": {"name": "f"}}])
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/nothing", None, {}, 404),
        ("/v1/models/three", None, {}, 404),
        ("/v1/chat/completions", None, {}, 405),
        ("/v1/models", {}, {}, 405),
        ("/v1/chat/completions", b"{", {}, 400),
        ("/v1/chat/completions", b"a=b", {"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ("/v1/chat/completions", {"a": "x" * 1_100_000}, {}, 413),
        ("/v1/models", None, {"Host": "evil.example"}, 421),
        ("/v1/models", None, {"Origin": "http://evil.example"}, 403),
        ("/v1/models", None, {"Origin": "null"}, 403),
    ],
)
def test_what_is_refused_has_openais_form(server, path, body, headers, status):
    found, value = server.ask(path, body, **headers)
    assert found == status
    assert set(value["error"]) == {"message", "type", "param", "code"}


def test_the_openapi_file_names_every_route():
    api = Api([], SimpleNamespace(), SimpleNamespace(), SimpleNamespace())
    there = {(route.method.lower(), route.resource.canonical) for route in api.app.router.routes()}
    promised = json.loads((files("ift.apps.serving") / "openapi.json").read_text())["paths"]
    assert {(method, path) for path, methods in promised.items() for method in methods} == {
        (method, path) for method, path in there if method != "head"
    }
    api.close()


def test_who_waits_in_silence_hears_of_it_and_pieces_keep_their_order():
    """An empty list is what a comment is sent for: a stream that says nothing is ended by proxies."""

    async def waited() -> list:
        inbox = Inbox(1, lambda: None)
        loop, found = asyncio.get_running_loop(), []
        loop.call_later(0.2, inbox.put, Piece(0, "a"))
        async for pieces in inbox.pieces(0.02):
            if pieces and not any(found):
                inbox.put(Piece(0, "b"))
                inbox.put(Piece(0, finish="stop", tokens=2))
            found.append([piece.text for piece in pieces])
        assert inbox.done
        assert inbox.tokens == 2
        return found

    found = asyncio.run(waited())
    assert found.count([]) >= 2
    assert [texts for texts in found if texts] == [["a"], ["b", ""]]


def test_more_than_may_wait_is_told_once():
    async def filled() -> list:
        told: list = []
        inbox = Inbox(1, lambda: told.append(True))
        for _ in range(UNREAD):
            inbox.put(Piece(0, "a"))
        assert told == []
        inbox.put(Piece(0, "a"))
        inbox.put(Piece(0, "a"))
        return told

    assert asyncio.run(filled()) == [True]


# -- clients that leave, and the end -----------------------------------------------------------------------------------


def settled(server) -> float:
    """Answers that are still on their way, after a moment for them to end."""
    deadline = time.monotonic() + 20
    while server.metric("ift_open_answers") and time.monotonic() < deadline:
        time.sleep(0.02)
    return server.metric("ift_open_answers")


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_gives_the_slot_back(server, stream):
    body = json.dumps({"model": "one", "messages": user("a"), "n": 16, "max_tokens": 250, "stream": stream})
    before = server.metric("ift_answer_tokens_total")
    for _ in range(3):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        if stream:
            assert connection.getresponse().status == 200
        else:
            time.sleep(0.05)
        connection.sock.close() if connection.sock else connection.close()
        del connection
    assert settled(server) == 0
    assert server.metric("ift_answer_tokens_total") - before <= 3 * 16 * 250
    assert server.ask("/v1/chat/completions", {"messages": user("a"), "model": "one", "max_tokens": 2})[0] == 200


def test_what_comes_on_top_of_a_full_queue_is_told_to_come_again(server):
    """32 slots and 64 that wait: the seventh of 16 answers each finds 96 there."""
    body = json.dumps({"model": "two", "messages": user("a"), "n": 16, "max_tokens": 250, "temperature": 1.5})
    connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(10)]
    for connection in connections:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answers = [connection.getresponse() for connection in connections]
    found = sorted((answer.status, answer.headers.get("Retry-After")) for answer in answers)
    assert {status for status, _ in found} == {200, 429}
    assert found[-1] == (429, "1")
    for answer in answers:
        value = json.loads(answer.read())
        assert (value.get("error") or {"code": "queue_full"})["code"] == "queue_full"
    assert settled(server) == 0


def test_a_token_is_asked_for_nothing_of_anybody_is_logged_and_the_end_waits_for_answers(runs, start, tmp_path):
    secret = "a-token-that-nobody-can-guess-0123456789"
    (tmp_path / "token").write_text(secret + "\n")
    (tmp_path / "token").chmod(0o600)
    server = start(str(runs[0]), "--token-file", str(tmp_path / "token"))
    body = {"messages": user("prompt-of-somebody"), "max_tokens": 3, "key-of-somebody": 1}
    assert server.ask("/health")[0] == 200
    for token in ("", "Bearer wrong", f"Basic {secret}", f"Bearer {secret}x", f"bearer{secret}"):
        status, value = server.ask("/v1/chat/completions", body, Authorization=token)
        assert (status, value["error"]["code"]) == (401, "invalid_api_key")
    assert server.ask("/v1/chat/completions", body, Authorization=f"Bearer {secret}")[0] == 200

    long = json.dumps({"messages": user("a"), "n": 8, "max_tokens": 200, "temperature": 1.2, "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}
    connection.request("POST", "/v1/chat/completions", long, headers)
    answer = connection.getresponse()
    first = answer.readline()
    code, output = server.end()
    assert (code, answer.status) == (0, 200)
    assert (first + answer.read()).endswith(b"data: [DONE]\n\n")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
    assert "ending    1 requests" in output
    assert "1 unknown keys" in output
    assert "somebody" not in output
    assert secret not in output
