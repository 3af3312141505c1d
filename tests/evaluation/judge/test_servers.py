"""Judges as they really answer: every kind of reply and fault, by real HTTP from a scripted server.

Each is tried on three rows. No verdict is lost, none is paid for twice, and without a score there is no success.
"""

import contextlib
import datetime
import email.utils
import gzip
import json
import re
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as limited
from hypothesis import strategies as st

from ift.errors import ConfigError, MachineError
from ift.evaluation.judge import client, run, transport
from ift.evaluation.judge.bodies import reply_from_line
from ift.evaluation.judge.client import RecordedJudge
from ift.evaluation.judge.problems import problem_of, shown
from ift.evaluation.judge.replies import read_score
from ift.evaluation.judge.run import judge_answers
from ift.evaluation.judge.servers import Ollama, OpenAICompatible, RefusedError, address, unknown_option
from ift.evaluation.judge.transport import NoReplyError, Response, proxy_for
from ift.evaluation.judging import Reply, ReplyOptions, Request
from ift.run import read_jsonl
from tests.evaluation.judge.judge_server import JudgeServer, Raw, honest

ROWS = 3
REQUESTS = [Request((("user", f"question {i}"),)) for i in range(30)]
NAMES = ["content", "text", "type", "message", "error", "choices", "refusal", "tool_calls", "reasoning", "thinking"]
NAMES += ["usage", "prompt_tokens", "completion_tokens", "logprobs", "finish_reason", "done_reason", "code", "detail"]
USAGE = {"prompt_tokens": 100, "completion_tokens": 3}
MORE = "max_completion_tokens"


@pytest.fixture(scope="module")
def there():
    with JudgeServer(honest) as server:
        yield server


@pytest.fixture(autouse=True)
def fresh(there, monkeypatch):
    """The same server for every case, with nothing in its books; and waits that take no time."""
    monkeypatch.setattr(client, "FIRST_WAIT", 0.001)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    there.raw = lambda path, body, attempt: None
    there.fault = lambda digest, attempt: None
    there.asked.clear(), there.bodies.clear(), there.answered.clear()


@pytest.fixture
def judge(there, settings, answers):
    """judge("judge.x=y", ...): three rows judged over OpenAI's protocol, or over Ollama's; (results, folder)."""
    given = answers(ROWS)

    def judge(*words, server="openai", base=None):
        base = there.url + ("/v1" if server == "openai" else "") if base is None else base
        told = ["judge.canaries=0", "judge.retries=2", f"judge.server={server}", f"judge.base_url={base}", *words]
        return judge_answers(given, settings(*told)), given.run.evals / "judge-score-m"

    return judge


def message(content: Any, *, end: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"content": content, **more}, "finish_reason": end}], "usage": USAGE}


def usage(value: Any) -> Callable[[str], Any]:
    return lambda score: {**message(score), "usage": value}


# -- replies that carry a score ------------------------------------------------------------------------------------

# kind -> the body (or the whole reply) that says a score
GOOD: dict[str, Callable[[str], Any]] = {
    "parts": lambda s: message([{"type": "text", "text": s}]),
    "parts of other services": lambda s: message([{"type": "output_text", "text": f"Score: {s}"}]),
    "parts that are strings": lambda s: message([s]),
    "thoughts among the parts": lambda s: message(
        [{"type": "thinking", "thinking": [{"type": "text", "text": "99?"}]}, {"type": "text", "text": s}]
    ),
    "a number": lambda s: message(int(s)),
    "an object": lambda s: message({"score": int(s)}),
    "JSON in words": lambda s: message(f'Here it is: {{"score": {s}}}'),
    "no usage": lambda s: {"choices": message(s)["choices"]},
    "usage null": usage(None),
    "usage empty": usage({}),
    "usage of nulls": usage({"prompt_tokens": None, "completion_tokens": None}),
    "usage of words": usage({"prompt_tokens": "many", "completion_tokens": [3]}),
    "usage below zero": usage({"prompt_tokens": -5, "completion_tokens": 1e300}),
    "usage a list": usage([1, 2]),
    "logprobs odd": lambda s: {"choices": [{**message(s)["choices"][0], "logprobs": {"content": [{}]}}]},
    "no finish_reason": lambda s: message(s, end=None),
    "finish_reason odd": lambda s: message(s, end=7),
    "reasoning_content": lambda s: message(s, reasoning_content="99? No."),
    "reasoning": lambda s: message(f"\n\n{s}", reasoning="99? No."),
    "a think block": lambda s: message(f"<think>99? 98?</think>\n\n{s}"),
    "</think> without its opening": lambda s: message(f"99? Rather 98.\n</think>\n\n{s}"),
    "harmony": lambda s: message(f"<|channel|>analysis<|message|>99<|end|><|start|>a<|channel|>final<|message|>{s}"),
    "two choices": lambda s: {"choices": [message(s)["choices"][0], {**message("99")["choices"][0], "index": 1}]},
    "a choice that is none first": lambda s: {"choices": [None, *message(s)["choices"]]},
    "the older interface": lambda s: {"choices": [{"text": s, "finish_reason": "stop"}]},
    "refusal null": lambda s: message(s, refusal=None, tool_calls=[], function_call=None),
    "error null": lambda s: {**message(s), "error": None},
    "cut off after its line": lambda s: message(f"Score: {s}.\n", end="length"),
    "byte order mark": lambda s: Raw(b"\xef\xbb\xbf" + json.dumps(message(s)).encode(), pays=True),
    "wrong content type": lambda s: Raw(message(s), headers={"Content-Type": "text/html"}, pays=True),
    "invalid UTF-8 beside it": lambda s: Raw(
        json.dumps(message(s, reasoning="XX")).encode().replace(b"XX", b"\xff\xfe"), pays=True
    ),
    "half a character": lambda s: message(s, reasoning="\ud800"),
    "chunked": lambda s: Raw(message(s), chunked=True, pays=True),
    "gzip": lambda s: Raw(
        gzip.compress(json.dumps(message(s)).encode()), headers={"Content-Encoding": "gzip"}, pays=True
    ),
    "deflate, chunked": lambda s: Raw(
        zlib.compress(json.dumps(message(s)).encode()), headers={"Content-Encoding": "deflate"}, chunked=True, pays=True
    ),
    "a connection that is dropped each time": lambda s: Raw(message(s), close=True, pays=True),
    "Connection: close": lambda s: Raw(message(s), headers={"Connection": "close"}, close=True, pays=True),
    "status 201": lambda s: Raw(message(s), status=201, pays=True),
    "Ollama's": lambda s: {"message": {"content": s}, "done": True, "done_reason": "stop"},
    "Ollama's thoughts": lambda s: {"message": {"content": s, "thinking": "99?"}, "done_reason": "stop"},
    "Ollama's think block": lambda s: {"message": {"content": f"<think>\n99\n</think>{s}"}, "eval_count": None},
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_reply_with_a_score_is_read_and_paid_for_once(judge, there, kind):
    def raw(path, body, attempt):
        made = GOOD[kind](honest(body))
        return made if isinstance(made, Raw) else Raw(made, pays=True)

    there.raw = raw
    server = "ollama" if kind.startswith("Ollama") else "openai"
    results, folder = judge(server=server)
    assert (results["scored"], results["mean"], results["problems"]) == (3, 1.0, {})  # 0, 1 and 2
    assert sorted(there.answered.values()) == [1] * ROWS == [there.asked.count(digest) for digest in set(there.asked)]
    again, _ = judge(server=server)
    assert (again["scored"], again["requests"], len(there.asked)) == (3, 0, ROWS)
    lines = read_jsonl(folder / "verdicts.jsonl")
    if re.search(r"think|thoughts|reason(?!_odd)|harmony", kind) and "finish" not in kind:
        assert all("99" in line["thoughts"] and "99" not in line["text"] for line in lines)


# -- faults that pass ----------------------------------------------------------------------------------------------

LATER = email.utils.format_datetime(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), usegmt=True)

# kind -> what the first request of each row meets
PASSING: dict[str, Raw | str] = {
    "429 with seconds": Raw({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.01"}),
    "429 with a date": Raw({"error": {"message": "slow down"}}, 429, {"Retry-After": LATER}),
    "429 with words": Raw({"error": {"message": "Rate limit. Please try again in 6ms."}}, 429),
    "429 of a quota that comes back": Raw(
        {"error": {"message": "You exceeded your current quota. Please retry in 0.01s.", "status": "EXHAUSTED"}}, 429
    ),
    "500": Raw(b"oops", 500),
    "502 with a page": Raw(b"<html><body><h1>502 Bad Gateway</h1></body></html>", 502, {"Content-Type": "text/html"}),
    "503": Raw({"detail": "loading the model"}, 503),
    "529": Raw({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529),
    "408": Raw(b"", 408),
    "an error with 200": Raw({"error": {"message": "upstream timed out", "code": 502}}),
    "a rate limit with 200": Raw({"error": "rate limit reached"}),
    "broken off by the server": Raw({"choices": [{"message": {"content": "8"}, "finish_reason": "error"}]}),
    "an error in the choice": Raw({"choices": [{"message": {"content": ""}, "error": {"message": "gone"}}]}),
    "no choices": Raw({"choices": [], "usage": USAGE}),
    "choices null": Raw({"choices": None}),
    "a choice without message": Raw({"choices": [{"index": 0}]}),
    "nothing": Raw(b""),
    "a list": Raw([1]),
    "half of the object": Raw(json.dumps(message("85")).encode()[:40]),
    "fewer bytes than promised": Raw(message("85"), promised=30),
    "a reset": "reset",
    "packed as what nobody knows": Raw(b"xyz", headers={"Content-Encoding": "br"}),
    "broken gzip": Raw(gzip.compress(b'{"choices"')[:-9], headers={"Content-Encoding": "gzip"}),
    "no reply in time": "timeout",
    "a byte at a time": Raw(message("85"), drip=0.1),
    "a head a byte at a time": Raw(message("85"), drip=0.02, slow_head=True),
    "nested too deep": Raw(b"[" * 50_000),
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes_loses_nothing(judge, there, kind):
    fault = PASSING[kind]
    words = []
    if kind == "no reply in time" or "byte at a time" in kind:
        words = ["judge.timeout=0.3"]
    if isinstance(fault, Raw):
        there.raw = lambda path, body, attempt: fault if attempt == 0 else None
    else:
        there.fault = lambda digest, attempt: fault if attempt == 0 else None
    results, _ = judge(*words)
    assert (results["scored"], results["mean"], results["problems"]) == (3, 1.0, {})
    assert [there.asked.count(digest) for digest in set(there.asked)] == [2] * ROWS
    assert sorted(there.answered.values()) == [1] * ROWS
    there.raw = there.fault = lambda *_: None
    assert judge(*words)[0]["requests"] == 0


# -- replies and faults that stay ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hopeless:
    """What every request meets; what the error says; how many requests that takes at most for three rows."""

    raw: Raw
    message: str
    requests: int = ROWS
    cured: tuple[str, ...] = ()  # settings with which the usual server then gives every score
    server: str = "openai"


THINKS = "cut off while it was thinking (judge.max_tokens=2000: thoughts count as well)"
HOPELESS: dict[str, Hopeless] = {
    "cut off in reasoning_content": Hopeless(
        Raw(message("", end="length", reasoning_content="Let me see: 85? I")), THINKS, cured=("judge.max_tokens=2000",)
    ),
    "cut off in reasoning": Hopeless(Raw(message(None, end="length", reasoning="85? 90?")), THINKS),
    "cut off in a think block": Hopeless(Raw(message("<think>85? Or 90", end="length")), THINKS),
    "cut off in a think block, in silence": Hopeless(Raw(message("<think>85", end=None)), THINKS),
    "cut off in thoughts that it keeps to itself": Hopeless(Raw(message("", end="length")), THINKS),
    "cut off, in another service's word": Hopeless(Raw(message("", end="MAX_TOKENS")), THINKS),
    "nothing but thoughts": Hopeless(
        Raw(message(None, reasoning_content="85")), "nothing but thoughts (judge.max_tokens=2000; or its server takes"
    ),
    "a filter, in another service's word": Hopeless(Raw(message("", end="SAFETY")), "by a filter of content"),
    "cut off in thoughts among the parts": Hopeless(
        Raw(message([{"type": "thinking", "thinking": "85"}], end="length")), THINKS
    ),
    "cut off in Ollama's thinking": Hopeless(
        Raw({"message": {"content": "", "thinking": "85? 90?"}, "done_reason": "length"}), THINKS, server="ollama"
    ),
    "cut off in thoughts without a mark": Hopeless(
        Raw(message("Let me see. It says 85", end="length")),
        "cut off at the last token it had (judge.max_tokens=64, or 2000 for a model that thinks first)",
        requests=2 * ROWS,
    ),
    "cut off in its number": Hopeless(Raw(message("8", end="length")), "cut off at the last token", 2 * ROWS),
    "a refusal": Hopeless(Raw(message(None, refusal="I can't help.")), "refused: by the judge (another judge.model)"),
    "a filter": Hopeless(Raw(message(None, end="content_filter")), "by a filter of content (another judge.model)"),
    "a tool": Hopeless(
        Raw(message(None, end="tool_calls", tool_calls=[{"function": {"name": "grade", "arguments": "85"}}])),
        "it calls a tool (another judge.model)",
        2 * ROWS,
    ),
    "null": Hopeless(Raw(message(None)), "an empty reply (judge.max_tokens=2000 if it thinks first", 2 * ROWS),
    "empty": Hopeless(Raw(message("")), "an empty reply", 2 * ROWS),
    "words": Hopeless(Raw(message("eighty")), "all 3 replies unread (its replies are in verdicts.jsonl", 2 * ROWS),
    "not whole": Hopeless(Raw(message("8.5")), "all 3 replies unread", 2 * ROWS),
    "below the scale": Hopeless(Raw(message("-1")), "all 3 replies unread", 2 * ROWS),
    "above the scale": Hopeless(Raw(message("101")), "all 3 replies unread", 2 * ROWS),
    "two scores": Hopeless(Raw(message("85\n90")), "all 3 replies unread", 2 * ROWS),
    "two digits in two parts": Hopeless(Raw(message(["8", "5"])), "all 3 replies unread", 2 * ROWS),
    "invalid UTF-8": Hopeless(
        Raw(json.dumps(message("8X")).encode().replace(b"X", b"\xff")), "all 3 replies unread", 2 * ROWS
    ),
    "400 for every row": Hopeless(
        Raw({"error": {"message": "bad request"}}, 400),
        "refused: HTTP 400: bad request (is judge.model right? judge.seed=null and judge.temperature=null leave these",
    ),
    "a context that is too short": Hopeless(
        Raw({"error": {"message": "This model's maximum context length is 100 tokens", "param": "messages"}}, 400),
        "(judge.max_characters=4000, or a judge with a longer context)",
    ),
    "401": Hopeless(Raw({"error": {"message": "no"}}, 401), "HTTP 401: no (is the key right?)"),
    "403": Hopeless(Raw({"error": "no"}, 403), "HTTP 403: no (may this key use this model?)"),
    "the model is not there": Hopeless(
        Raw({"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}, 404),
        "(is judge.model right?)",
    ),
    "Ollama's model is not there": Hopeless(
        Raw({"error": "model 'm' not found"}, 404), "(ollama pull m)", server="ollama"
    ),
    "Ollama's error with 200": Hopeless(Raw({"error": "model 'm' not found"}), "(ollama pull m)", server="ollama"),
    "the quota is spent": Hopeless(
        Raw({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, 429),
        "nothing is left on the account",
    ),
    "402": Hopeless(Raw({"error": {"message": "Insufficient Balance"}}, 402), "nothing is left on the account"),
    "no credit, with 400": Hopeless(
        Raw({"type": "error", "error": {"message": "Your credit balance is too low"}}, 400), "nothing is left"
    ),
    "no credit, with 200": Hopeless(
        Raw({"error": {"message": "Insufficient credits", "code": 402}}), "HTTP 200: Insufficient credits (nothing is"
    ),
    "moved": Hopeless(
        Raw(b"", 307, {"Location": "http://other.example/v1/chat/completions"}),
        "the key is not sent after it (judge.base_url=http://other.example/v1)",
    ),
    "moved to https": Hopeless(Raw(b"", 301, {"Location": "https://x.example/v1"}), "judge.base_url=https://x.example/"),
    "a page for people": Hopeless(
        Raw(b"<!DOCTYPE html><title>Hello</title>", headers={"Content-Type": "text/html"}),
        "a page for people, not a judge (is judge.base_url right? Most end in /v1)",
        2 * ROWS,
    ),
    "404 everywhere": Hopeless(Raw(b"404 page not found", 404), "is judge.base_url right?", 2 * ROWS),
    "Ollama is something else": Hopeless(
        Raw({"detail": "Not Found"}, 404), "(is this Ollama? For other servers: judge.server=openai)", server="ollama"
    ),
    "500 for ever": Hopeless(Raw({"error": "out of memory"}, 500), "got no reply: HTTP 500: out of memory", 9),
    "a wait that is too long": Hopeless(
        Raw({"error": "later"}, 429, {"Retry-After": "86400"}), "got no reply: HTTP 429: later"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOPELESS)
def test_a_judge_that_scores_nothing_is_an_error_with_its_likeliest_cure(judge, there, kind, capsys):
    case = HOPELESS[kind]
    there.raw = lambda path, body, attempt: case.raw
    with pytest.raises(MachineError) as caught:
        judge(server=case.server)
    assert case.message in str(caught.value)
    assert caught.value.exit_code == 5
    assert len(there.asked) <= case.requests
    sent = len(there.asked)
    there.raw = lambda *_: None
    results, _ = judge("judge.max_tokens=99", *case.cured, server=case.server)  # the ledger goes on
    assert (results["scored"], len(there.asked)) == (3, sent + 3)


@pytest.mark.parametrize("kind", ["a refusal", "a tool", "cut off in reasoning_content", "a filter"])
def test_what_came_in_the_place_of_a_score_is_kept_and_shown(judge, there, kind):
    there.raw = lambda path, body, attempt: HOPELESS[kind].raw
    with pytest.raises(MachineError):
        judge()
    there.raw = lambda *_: None
    with pytest.raises(MachineError):
        judge()  # the same again is asked for nothing: it was paid
    assert len(there.asked) == HOPELESS[kind].requests
    folder = judge("judge.max_tokens=99")[1]
    there.raw = lambda path, body, attempt: HOPELESS[kind].raw if attempt else None
    lines = read_jsonl(folder / "verdicts.jsonl")[: HOPELESS[kind].requests]
    words = {
        "a refusal": "I can't help.",
        "a tool": "grade",
        "cut off in reasoning_content": "Let me see",
    }
    assert all(words.get(kind, "") in line.get("instead", "") + line.get("thoughts", "") for line in lines)
    assert {line.get("end") for line in lines} == {HOPELESS[kind].raw.body["choices"][0]["finish_reason"]}


def test_one_refusal_among_scores_is_shown_and_does_not_fail(judge, there, capsys):
    first = []

    def raw(path, body, attempt):
        first.append(honest(body))
        return HOPELESS["a refusal"].raw if honest(body) == "1" else None

    there.raw = raw
    results, folder = judge()
    assert (results["scored"], results["refused"], results["problems"]) == (2, 1, {"refused: by the judge": 1})
    assert "1 of 1 verdicts missing: refused: by the judge (another judge.model)" in capsys.readouterr().out
    assert [sample["replies"] for sample in read_jsonl(folder / "samples.jsonl")] == [["0"], ["I can't help."], ["2"]]


def test_a_judge_that_says_nothing_is_stopped_before_the_rest_is_paid(there, settings, answers):
    there.raw = lambda path, body, attempt: HOPELESS["cut off in reasoning_content"].raw
    told = ["judge.server=openai", f"judge.base_url={there.url}/v1"]
    with pytest.raises(
        MachineError, match=r"scored 0 of 300; all \d+ replies unread: cut off .*judge\.max_tokens=2000"
    ):
        judge_answers(answers(300), settings(*told))
    assert 20 <= len(there.asked) < 20 + 4


def test_kept_replies_that_say_nothing_stop_nothing(there, settings, answers, monkeypatch):
    there.raw = lambda path, body, attempt: HOPELESS["a refusal"].raw if int(honest(body)) < 30 else None
    given, told = answers(40), settings("judge.server=openai", f"judge.base_url={there.url}/v1", "judge.canaries=0")
    with monkeypatch.context() as patch:
        patch.setattr(run, "HOPELESS", 1000)  # as the release before had it
        assert judge_answers(given, told)["scored"] == 10
    again = judge_answers(given, told)
    assert (again["scored"], again["refused"], again["requests"]) == (10, 30, 0)


def test_what_was_paid_before_the_quota_was_spent_counts_and_is_not_asked_again(there, settings, answers, capsys):
    spent = HOPELESS["the quota is spent"].raw
    there.raw = lambda path, body, attempt: spent if len(there.asked) > 15 else None
    given = answers(40)
    told = settings("judge.server=openai", f"judge.base_url={there.url}/v1", "judge.concurrency=3", "judge.canaries=0")
    with pytest.raises(
        MachineError, match=r"HTTP 429: You exceeded .* \(nothing is left on the account; once it is, the"
    ):
        judge_answers(given, told)
    assert len(there.asked) <= 15 + 3
    assert "scored 15 of 40" in capsys.readouterr().out
    there.raw = lambda *_: None
    results = judge_answers(given, told)
    assert (results["scored"], results["mean"], results["requests"]) == (40, 19.5, 25)
    assert set(there.answered.values()) == {1}


# -- what a server does not take -----------------------------------------------------------------------------------

# kind -> status and body of the refusal, in the words of the services
UNKNOWN: dict[str, tuple[int, Any]] = {
    "seed, pydantic": (
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
    ),
    "seed, Gemini": (
        400,
        {"error": {"code": 400, "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'}},
    ),
    "seed, Groq": (400, {"error": {"message": "property 'seed' is unsupported"}}),
    "temperature, OpenAI": (
        400,
        {
            "error": {
                "message": "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default "
                "(1) value is supported.",
                "param": "temperature",
                "code": "unsupported_value",
            }
        },
    ),
    "max_tokens, OpenAI": (
        400,
        {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                "param": "max_tokens",
            }
        },
    ),
    f"{MORE}, older": (
        400,
        {"object": "error", "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens')}]"},
    ),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_a_server_does_not_take_is_sent_another_way_and_said_once(judge, there, kind, capsys):
    name = kind.split(",")[0]
    status, body = UNKNOWN[kind]
    there.raw = lambda path, sent, attempt: Raw(body, status) if name in sent else None
    results, _ = judge(*(["judge.reasoning=true"] if name == MORE else []))
    other = {"max_tokens": MORE, MORE: "max_tokens"}.get(name)
    assert results["scored"] == 3
    assert results["judge"]["changes"] == {name: other}
    assert capsys.readouterr().out.count("judge     the server takes no") == 1
    assert len(there.asked) <= 2 * ROWS
    taken = [sent for sent in there.bodies if name not in sent]
    assert [sent.get(other) for sent in taken] == [16 if other else None] * ROWS
    assert judge(*(["judge.reasoning=true"] if name == MORE else []))[0]["requests"] == 0


def test_all_three_may_be_refused_one_after_the_other(judge, there):
    def raw(path, sent, attempt):
        for name in ("seed", "max_tokens", "temperature"):
            if name in sent:
                return Raw({"error": {"message": f"Unsupported parameter: '{name}'"}}, 400)
        return None

    there.raw = raw
    results, _ = judge("judge.concurrency=1")
    assert results["scored"] == 3
    assert results["judge"]["changes"] == {"seed": None, "temperature": None, "max_tokens": MORE}
    assert len(there.asked) == 3 + ROWS


def test_both_names_refused_is_a_refusal(judge, there):
    there.raw = lambda path, sent, attempt: Raw({"error": "unknown parameter: max_tokens, max_completion_tokens"}, 400)
    with pytest.raises(MachineError, match=r"refused: HTTP 400: unknown parameter"):
        judge()
    assert len(there.asked) <= 3 * ROWS


@pytest.mark.parametrize("server", ["openai", "ollama"])
def test_null_leaves_seed_and_temperature_out(judge, there, server):
    results, _ = judge("judge.seed=null", "judge.temperature=null", server=server)
    sent = [body.get("options", body) for body in there.bodies]
    assert results["scored"] == 3
    assert not any(name in each for name in ("seed", "temperature") for each in sent)


@pytest.mark.parametrize(
    "refusal",
    [
        "max_tokens is too large: 9999. This model supports at most 4096 completion tokens",
        "'max_tokens' or 'max_completion_tokens' is too large: 300. This model's maximum context length is 8192 tokens",
        "the prompt is not allowed",
        "reseeding is not supported",
        "",
    ],
)
def test_a_refusal_of_another_kind_changes_nothing(refusal):
    assert unknown_option(refusal, {"seed": 1, "temperature": 0, "max_tokens": 16}) is None


# -- addresses and proxies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "/", "/v1/v1", "/v1/", "/v1/chat/completions", "/v1"])
def test_a_wrong_v1_is_found(judge, there, given, capsys):
    there.raw = lambda path, body, attempt: None if path == "/v1/chat/completions" else Raw(b"Not Found", 404)
    results, _ = judge(base=there.url + given)
    assert results["scored"] == 3
    assert ("no judge at" in capsys.readouterr().out) == (given in ("", "/"))
    assert judge(base=there.url + "/v1")[0]["requests"] == 0  # the same judge by its right address
    there.raw = lambda path, body, attempt: None if path == "/chat/completions" else Raw(b"Not Found", 404)
    results, _ = judge("judge.max_tokens=17", base=there.url + "/v1")  # a server without /v1
    assert results["scored"] == 3


@pytest.mark.parametrize("given", ["/v1", "/api", "/api/chat", "/"])
def test_what_is_too_much_of_ollamas_address_is_left_out(judge, there, given):
    there.raw = lambda path, body, attempt: None if path == "/api/chat" else Raw(b"404 page not found", 404)
    assert judge(server="ollama", base=there.url + given)[0]["scored"] == 3


def test_lm_studios_word_for_a_wrong_address(judge, there):
    there.raw = lambda path, body, attempt: (
        None if path.startswith("/v1/") else Raw({"error": "Unexpected endpoint or method. (POST /chat/completions)"})
    )
    assert judge(base=there.url)[0]["scored"] == 3


@pytest.mark.parametrize("server", ["openai", "ollama"])
def test_no_one_there_is_said_at_once(judge, server):
    with pytest.raises(
        MachineError, match=r"no connection to 127\.0\.0\.1:9: Connection refused \((is it|ollama serve)"
    ):
        judge(server=server, base="http://127.0.0.1:9")


def test_a_server_that_was_there_is_waited_for(judge, there, monkeypatch):
    """One that starts again in the middle refuses connections for a while."""
    connect, refused = transport._Connection.connect, []

    def sometimes(self):
        if len(there.asked) in (1, 2) and len(refused) < 2:
            refused.append(1)
            raise ConnectionRefusedError(111, "Connection refused")
        connect(self)

    monkeypatch.setattr(transport._Connection, "connect", sometimes)
    monkeypatch.setattr(transport._Timed, "is_open", lambda self: False)
    assert judge("judge.concurrency=1")[0]["scored"] == 3
    assert len(refused) == 2


def test_no_proxy_leads_to_this_machine_and_a_proxy_leads_elsewhere(judge, there, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    assert judge()[0]["scored"] == 3
    monkeypatch.setenv("HTTP_PROXY", there.url.replace("//", "//me:word@"))  # the server is its own proxy
    monkeypatch.setenv("KEY_OF_TESTS", "sk-1")
    words = ["judge.key_variable=KEY_OF_TESTS", "judge.price_in=0", "judge.price_out=0"]
    paths = []
    there.raw = lambda path, body, attempt: paths.append(path)
    assert judge(*words, base="http://judge.example:81/v1")[0]["scored"] == 3
    assert set(paths) == {"http://judge.example:81/v1/chat/completions"}
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match=r"proxy of HTTP_PROXY: Connection refused \(export NO_PROXY=judge\.example"):
        judge(*words, "judge.max_tokens=17", base="http://judge.example:81/v1")


@pytest.mark.parametrize(
    ("url", "variables", "proxy"),
    [
        ("https://api.x.org/v1", {"HTTPS_PROXY": "http://p:3128"}, "p"),
        ("https://api.x.org/v1", {"HTTPS_PROXY": "p:3128"}, "p"),
        ("https://api.x.org/v1", {"ALL_PROXY": "http://p:3128"}, "p"),
        ("https://api.x.org/v1", {"HTTP_PROXY": "http://p:3128"}, None),
        ("https://api.x.org/v1", {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": ".x.org"}, None),
        ("https://api.x.org/v1", {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "*"}, None),
        ("http://10.1.2.3:8000", {"HTTP_PROXY": "http://p:3128", "NO_PROXY": "a.b,10.0.0.0/8"}, None),
        ("http://11.1.2.3:8000", {"HTTP_PROXY": "http://p:3128", "NO_PROXY": "a.b,10.0.0.0/8"}, "p"),
        ("http://localhost:8000", {"HTTP_PROXY": "http://p:3128"}, None),
        ("http://[::1]:8000", {"ALL_PROXY": "http://p:3128"}, None),
        ("http://0.0.0.0:8000", {"ALL_PROXY": "http://p:3128"}, None),
    ],
)
def test_which_proxy_leads_where(monkeypatch, url, variables, proxy):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found, _ = proxy_for(url)
    assert (found.hostname if found else None) == proxy


def test_a_proxy_of_another_kind_is_named(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"ALL_PROXY: not a proxy that can be used here \(.*NO_PROXY=x\.org\)"):
        proxy_for("https://x.org/v1")


def test_the_key_goes_nowhere_else_and_is_hidden_where_a_server_repeats_it(judge, there, monkeypatch):
    monkeypatch.setenv("KEY_OF_TESTS", "sk-secret-123\n")  # as a file leaves it
    elsewhere = []
    with JudgeServer(honest) as other:
        moved = Raw(b"", 302, {"Location": f"{other.url}/v1/chat/completions"})
        there.raw = lambda path, body, attempt: moved
        with pytest.raises(MachineError, match="has moved"):
            judge("judge.key_variable=KEY_OF_TESTS")
        elsewhere += other.asked
    assert elsewhere == []
    assert there.bodies[0]["authorization"] == "Bearer sk-secret-123"
    there.raw = lambda path, body, attempt: Raw(
        {"error": {"message": "Incorrect API key provided: sk-secret-123"}}, 401
    )
    with pytest.raises(MachineError) as caught:
        judge("judge.key_variable=KEY_OF_TESTS")
    assert "sk-secret" not in str(caught.value)
    monkeypatch.setenv("KEY_OF_TESTS", "sk-\u2013x")
    with pytest.raises(MachineError, match="KEY_OF_TESTS: holds characters that no key has"):
        judge("judge.key_variable=KEY_OF_TESTS")


@pytest.mark.parametrize("url", ["http://a b/v1", "http://x/v1?key=1", "http://x/v1#key", "x.org/v1", "ftp://x"])
def test_what_is_no_address_is_named(settings, url):
    with pytest.raises(ConfigError, match=r"^judge\.base_url: "):
        address(replace(settings("judge.server=openai"), base_url=url))


def test_a_dry_run_needs_neither_key_nor_prices(judge, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    results, _ = judge("judge.dry_run=true", base="https://api.nowhere.example/v1")
    assert results is None
    assert "3 verdicts, 3 requests to make" in capsys.readouterr().out


# -- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_a_reply_without_end_is_not_read_to_its_end(judge, there, packed, monkeypatch):
    monkeypatch.setattr(transport, "LARGEST", 10_000)
    data = json.dumps(message("85", reasoning="x" * 50_000)).encode()
    raw = Raw(gzip.compress(data), headers={"Content-Encoding": "gzip"}) if packed else Raw(data)
    there.raw = lambda path, body, attempt: raw
    with pytest.raises(MachineError, match="refused: a reply of more than"):
        judge()
    assert len(there.asked) == ROWS  # it would be as large again


def test_many_requests_share_few_connections(there, settings, answers):
    peers: Counter[Any] = Counter()
    handle = there.process_request
    there.process_request = lambda request, client: (peers.update([client]), handle(request, client))
    told = ["judge.server=openai", f"judge.base_url={there.url}/v1", "judge.concurrency=3"]
    try:
        assert judge_answers(answers(30), settings(*told))["scored"] == 30
    finally:
        del there.process_request
    assert len(peers) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["text", "85"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
    max_leaves=12,
)


@limited(max_examples=150, deadline=None)
@given(value=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5), status=st.sampled_from([200, 200, 400, 429]))
def test_whatever_a_server_sends_is_a_reply_that_can_be_kept_or_one_of_three_errors(settings, value, status):
    message = value if "content" in value else {"content": value}
    bodies = [value, {"choices": [value]}, {"choices": [{"message": message}], "usage": value}, {"message": message}]
    for kind in (OpenAICompatible, Ollama):
        server = kind(settings("judge.base_url=http://127.0.0.1:9"))
        for body in bodies:
            server.transport.post = lambda url, sent, body=body: Response(status, {}, json.dumps(body).encode())
            try:
                reply = server.ask(REQUESTS[0])
            except (NoReplyError, RefusedError, MachineError):
                continue
            line = {"text": reply.text, "end": reply.end, "thoughts": reply.thoughts, "instead": reply.instead}
            line |= {"prompt_tokens": reply.prompt_tokens, "reply_tokens": reply.reply_tokens, "first": reply.first}
            assert reply_from_line(json.loads(json.dumps(line))) == reply
            assert problem_of(reply).startswith(("unread", "refused"))
            shown(reply).encode()
            read_score(reply.text, 0, 100)


def test_a_message_that_is_nested_too_deep_is_no_reply(judge, there):
    deep = '{"choices": [{"message": {"content": ' + "[" * 900 + "85" + "]" * 900 + "}}]}"
    there.raw = lambda path, body, attempt: Raw(deep.encode()) if attempt == 0 else None
    assert judge()[0]["scored"] == 3


# -- https ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A folder with key and certificate of this machine, signed by itself."""
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:judge.example,IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-keyout", folder / "key", "-out", folder / "pem"]
    subprocess.run(["openssl", "req", "-x509", "-nodes", "-days", "2", *names, *kind, *files], check=True, timeout=60)
    return folder


class Tunnel(socketserver.StreamRequestHandler):
    """A proxy that takes CONNECT and leads every name to one place."""

    def handle(self):
        lines = iter(lambda: self.rfile.readline().decode().strip(), "")
        self.server.asked.append([line for line in lines if line.startswith(("CONNECT", "Proxy-"))])
        with socket.create_connection(self.server.place) as far:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            pipes = [(self.connection, far), (far, self.connection)]
            ways = [threading.Thread(target=self.pipe, args=pipe, daemon=True) for pipe in pipes]
            for way in ways:
                way.start()
            for way in ways:
                way.join()

    def pipe(self, one, other):
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


def test_https_checks_the_certificate_and_goes_through_a_proxy(judge, certificate, monkeypatch):
    monkeypatch.setenv("KEY_OF_TESTS", "sk-1")
    words = ["judge.key_variable=KEY_OF_TESTS", "judge.price_in=0", "judge.price_out=0"]
    with JudgeServer(honest) as secure:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "pem", certificate / "key")
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        port = secure.server_address[1]
        with pytest.raises(MachineError, match=r"certificate verify failed.*\(export SSL_CERT_FILE=FILE"):
            judge(base=f"https://127.0.0.1:{port}/v1")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "pem"))
        assert judge(base=f"https://127.0.0.1:{port}/v1")[0]["scored"] == 3
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as proxy:
            proxy.daemon_threads, proxy.asked, proxy.place = True, [], ("127.0.0.1", port)
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:word@127.0.0.1:{proxy.server_address[1]}")
            assert judge(*words, base="https://judge.example/v1")[0]["scored"] == 3
            proxy.shutdown()
    expected = ["CONNECT judge.example:443 HTTP/1.", "Proxy-Authorization: Basic bWU6d29yZA=="]  # me:word
    assert [[line[: len(text)] for line, text in zip(lines, expected, strict=True)] for lines in proxy.asked] == [
        expected
    ] * ROWS


def test_https_to_a_server_that_speaks_http_is_said(judge, there):
    with pytest.raises(
        MachineError, match=r"no connection to 127\.0\.0\.1:\d+: .*\(http:// in the place of https://\?\)"
    ):
        judge(base=there.url.replace("http:", "https:") + "/v1")


# -- as the evaluations use a judge --------------------------------------------------------------------------------


def opened(there, settings, folder, *words):
    told = ["judge.server=openai", f"judge.base_url={there.url}/v1", "judge.retries=1", *words]
    return RecordedJudge(folder, settings(*told))


def test_engines_get_text_without_thoughts_and_none_for_refused(there, settings, tmp_path):
    def raw(path, body, attempt):
        number = int(body["messages"][0]["content"].split()[1])
        if number == 1:
            return Raw({"error": "not this one"}, 400)
        return Raw(message(f"[[9]] at first</think>[[{number}]]"))

    there.raw = raw
    with opened(there, settings, tmp_path) as judge:
        replies = judge.replies(REQUESTS[:3], ReplyOptions(max_tokens=50))
        assert [reply and reply.text for reply in replies] == ["[[0]]", None, "[[2]]"]
        assert (judge.refused, judge.problem) == (1, "HTTP 400: not this one")
        assert replies[0] == Reply("[[0]]", 100, 3, (), "stop", "[[9]] at first")
        assert there.bodies[0]["max_tokens"] == 50
    with opened(there, settings, tmp_path) as judge:
        assert judge.replies([REQUESTS[0]], ReplyOptions(max_tokens=50)) == replies[:1]
    assert len(there.asked) == 3


def test_what_an_engine_asks_for_gives_way_to_what_the_person_set(there, settings, tmp_path):
    there.raw = lambda path, body, attempt: Raw(message("85"))
    published = ReplyOptions(max_tokens=50, temperature=0.0)
    sent = []
    for words in ([], ["judge.max_tokens=4000"], ["judge.temperature=null", "judge.seed=null"]):
        with opened(there, settings, tmp_path, *words) as judge:
            judge.replies(REQUESTS[:1], published)
            judge.replies(REQUESTS[:1], ReplyOptions(max_tokens=1, temperature=0.0, logprobs=5))
        sent += [{name: body.get(name) for name in ("max_tokens", "temperature", "seed")} for body in there.bodies]
        there.bodies.clear()
    one, usual = {"max_tokens": 1, "temperature": 0.0, "seed": 123}, {"max_tokens": 50, "temperature": 0.0, "seed": 123}
    assert sent[:3] == [usual, one, usual | {"max_tokens": 4000}]
    assert sent[3:] == [{**each, "temperature": None, "seed": None} for each in (usual, one)]


def test_a_judge_that_says_nothing_stops_an_engine_with_the_cure(there, settings, tmp_path):
    there.raw = lambda path, body, attempt: HOPELESS["cut off in reasoning"].raw
    with opened(there, settings, tmp_path) as judge:
        with pytest.raises(MachineError, match=r"none of its first 2\d replies has text: .*\(judge\.max_tokens=2000"):
            judge.replies(REQUESTS)
        assert judge.cure == "judge.max_tokens=2000: thoughts count as well"
    assert len(there.asked) < 24
