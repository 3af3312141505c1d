"""What is asked for, and what is refused: by its name, before any model is touched."""

import json

import pytest

from ift.apps.serving.problems import ApiError
from ift.apps.serving.requests import read_body, read_chat, read_completion
from ift.text.conversations import Conversation

USER = {"role": "user", "content": "a"}


def chat(**more):
    return read_chat({"messages": [USER], **more})


def refused(read, value) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(value)
    return caught.value


def test_what_is_not_said_is_as_in_openais_api():
    wanted = chat()
    assert wanted.conversation == Conversation("a")
    assert (wanted.n, wanted.temperature, wanted.top_p, wanted.seed, wanted.stop) == (1, 1.0, None, None, ())
    assert (wanted.max_tokens, wanted.stream, wanted.usage, wanted.top, wanted.model) == (
        None,
        False,
        False,
        None,
        None,
    )


def test_every_form_of_a_content_is_read():
    parts = [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]
    messages = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": "a", "name": "me"},
        {"role": "assistant", "content": "x", "tool_calls": []},
        {"role": "user", "content": parts},
        {"role": "user", "content": "d"},
    ]
    wanted = read_chat({"messages": messages})
    assert wanted.conversation == Conversation("bc\n\nd", system="s", history=(("a", "x"),))


@pytest.mark.parametrize(
    ("more", "changes"),
    [
        ({"max_completion_tokens": 7}, {"max_tokens": 7, "max_tokens_name": "max_completion_tokens"}),
        ({"stop": "x"}, {"stop": ("x",)}),
        ({"stop": ["x", "y"]}, {"stop": ("x", "y")}),
        ({"temperature": 0, "top_p": 1, "top_k": -1}, {"temperature": 0.0, "top_p": None, "top_k": None}),
        ({"seed": -5, "n": 3, "model": "m"}, {"seed": -5, "n": 3, "model": "m"}),
        ({"logprobs": True}, {"top": 0}),
        ({"logprobs": True, "top_logprobs": 20}, {"top": 20}),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True, "usage": True}),
        ({"stream": True, "stream_options": {}}, {"stream": True, "usage": False}),
        ({"tools": [], "tool_choice": "none", "response_format": {"type": "text"}}, {}),
        ({"presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "user": "me"}, {}),
        ({"chat_id": 5, "flavour": "x"}, {"unknown": ("chat_id", "flavour")}),
        ({"temperature": None, "stop": None, "n": None, "stream": None}, {}),
    ],
)
def test_what_is_said_counts(more, changes):
    wanted, plain = chat(**more), chat()
    differs = {name: getattr(wanted, name) for name in vars(wanted) if getattr(wanted, name) != getattr(plain, name)}
    assert differs == {name: value for name, value in changes.items() if value != getattr(plain, name)}
    assert all(getattr(wanted, name) == value for name, value in changes.items())


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "a"}, "messages"),
        ({"messages": [USER] * 1025}, "messages"),
        ({"messages": [USER, "x"]}, "messages[1]"),
        ({"messages": [{"role": "boss", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0]"),
        ({"messages": [USER, {"role": "assistant", "content": "a"}]}, "messages"),
        ({"messages": [USER, {"role": "system", "content": "a"}, USER]}, "messages"),
        (
            {"messages": [USER, {"role": "assistant", "content": "", "tool_calls": [{}]}, USER]},
            "messages[1].tool_calls",
        ),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5.0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 10**9}, "max_tokens"),
        ({"max_tokens": 60_000, "n": 2}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 999_999}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"model": 3}, "model"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"presence_penalty": False}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"chat_template": "{{ x }}"}, "chat_template"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(more, param):
    error = refused(read_chat, {"messages": [USER], **more})
    assert (error.status, error.param, error.kind) == (400, param, "invalid_request_error")
    assert error.body["error"]["message"].startswith(param.split(".x")[0])


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
        (["a", [3]], ("a", (3,))),
    ],
)
def test_prompts_are_texts_or_tokens_one_or_several(prompt, prompts):
    assert read_completion({"prompt": prompt}).prompts == prompts


@pytest.mark.parametrize("prompt", [None, [], [[]], [1.5], [[1], []], [True], {"a": 1}, ["a"] * 129, [["a"]]])
def test_what_is_no_prompt_is_refused(prompt):
    error = refused(read_completion, {"prompt": prompt})
    assert error.status == 400
    assert (error.param or "").startswith("prompt")


def test_only_an_echo_can_be_without_an_answer():
    assert read_completion({"prompt": "a", "max_tokens": 0, "echo": True, "logprobs": 5}).max_tokens == 0
    assert refused(read_completion, {"prompt": "a", "max_tokens": 0}).param == "max_tokens"
    assert refused(read_completion, {"prompt": "a", "logprobs": True}).param == "logprobs"
    assert refused(read_completion, {"prompt": ["a"] * 100, "max_tokens": 1000}).param == "max_tokens"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"null", b"{", b"\xff{}", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": "\\ud800"}'),
        *(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a": ' + b"9" * 5000 + b"}", b'{"\\udc00": 1}'),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body):
    assert refused(read_body, body).status == 400


def test_an_error_has_the_form_that_clients_read():
    error = refused(read_chat, {"messages": [USER], "n": 0})
    said = {"message": "n: must be a whole number from 1 to 16", "type": "invalid_request_error", "param": "n"}
    assert json.loads(json.dumps(error.body)) == {"error": {**said, "code": None}}
