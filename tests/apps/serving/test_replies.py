"""Objects of OpenAI's API."""

import json

from ift.apps.serving.choices import Piece, Scored
from ift.apps.serving.replies import Head, closing, events, opening, token_names, whole

BYTES = [b"a", b"b", b"\xe2\x82", b"a", b"", b"\xe2\x82"]


def head(*, chat: bool, usage: bool = False) -> Head:
    names = token_names(BYTES)
    return Head(id="x", created=5, model="m", fingerprint="fp", names=names, token_bytes=BYTES, chat=chat, usage=usage)


def read(event: bytes):
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    return json.loads(event[6:])


def test_no_two_tokens_have_one_name():
    assert token_names(BYTES) == ["a", "b", "bytes:\\xe2\\x82", "bytes:\\x61", "token_id:4", "token_id:5"]


def test_answers_are_put_together_by_their_number():
    pieces = [Piece(1, "x"), Piece(0, "a"), Piece(0, "b"), Piece(1, finish="length", tokens=1)]
    pieces.append(Piece(0, finish="stop", tokens=2))
    value = whole(head(chat=True), pieces, answers=2, scored=False, prompt_tokens=7)
    said = [(choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in value["choices"]]
    assert said == [(0, "ab", "stop"), (1, "x", "length")]
    assert value["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert (value["object"], value["system_fingerprint"]) == ("chat.completion", "fp")


def test_a_token_is_always_among_the_likeliest_with_the_same_number():
    scores = [Scored(0, None, [], 0), Scored(1, -2.5, [(2, -0.1)], 1)]
    pieces = [Piece(0, "ab", scores), Piece(0, finish="stop", tokens=2)]
    (choice,) = whole(head(chat=False), pieces, answers=1, scored=True, prompt_tokens=1)["choices"]
    assert choice["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [None, -2.5],
        "top_logprobs": [None, {"bytes:\\xe2\\x82": -0.1, "b": -2.5}],
        "text_offset": [0, 1],
    }


def test_a_stream_begins_with_who_speaks_and_ends_with_why():
    first = [read(event)["choices"][0] for event in opening(head(chat=True), 2)]
    assert [(choice["index"], choice["delta"]) for choice in first] == [
        (0, {"role": "assistant", "content": ""}),
        (1, {"role": "assistant", "content": ""}),
    ]
    (last,) = events(head(chat=True), Piece(1, finish="stop", tokens=3), scored=False)
    assert read(last)["choices"] == [{"index": 1, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert "usage" not in read(last)
    assert list(closing(head(chat=True), 1, 2)) == [b"data: [DONE]\n\n"]


def test_usage_comes_in_a_chunk_without_choices_where_it_is_asked_for():
    (chunk,) = events(head(chat=True, usage=True), Piece(0, "a"), scored=False)
    assert read(chunk)["usage"] is None
    counted, done = closing(head(chat=True, usage=True), 3, 4)
    assert (read(counted)["choices"], read(counted)["usage"]["total_tokens"]) == ([], 7)
    assert done == b"data: [DONE]\n\n"


def test_a_piece_of_chat_has_its_tokens_with_their_bytes():
    (chunk,) = events(head(chat=True), Piece(0, "a", [Scored(0, -0.5, [(0, -0.5)], 0)]), scored=True)
    token = {"token": "a", "logprob": -0.5, "bytes": [97]}
    logprobs = read(chunk)["choices"][0]["logprobs"]
    assert logprobs == {"content": [{**token, "top_logprobs": [token]}], "refusal": None}
