"""Hostile requests, byte by byte: each gets the right refusal, and the next good one its answer."""

import json
import socket
import threading
import time
from contextlib import suppress

import pytest

GOOD = {"model": "one", "messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
CHAT, COMPLETE = "/v1/chat/completions", "/v1/completions"


def request(
    body: object = None, *more: str, method: str = "POST", path: str = CHAT, version: str = "HTTP/1.1", **headers: str
) -> bytes:
    """A request as bytes. headers: replaces one of the usual ones, "" leaves it out; more: further lines."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
    usual = {"Host": "localhost", "Content_Type": "application/json", "Content_Length": str(len(data))}
    named = {name.replace("_", "-"): value for name, value in {**usual, **headers}.items() if value}
    lines = [f"{method} {path} {version}", *(f"{name}: {value}" for name, value in named.items()), *more]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + data


def answer(port: int, data: bytes, *, timeout: float = 8) -> tuple[int, bytes]:
    """Status and body of the first answer; 0 where the connection ends without one."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        with suppress(ConnectionError):
            connection.sendall(data)
        return read(connection)


def read(connection: socket.socket) -> tuple[int, bytes]:
    received = b""
    while True:
        head, split, body = received.partition(b"\r\n\r\n")
        if split:
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                ),
                0,
            )
            if len(body) >= length:
                return int(head.split()[1]), body[:length]
        try:
            more = connection.recv(65_536)
        except (ConnectionError, TimeoutError) as error:
            more = b""
            if isinstance(error, TimeoutError):
                return -1, received
        if not more:
            return (int(head.split()[1]), body) if received else (0, b"")
        received += more


def chat(**more: object) -> bytes:
    return request({**GOOD, **more})


def said(text: str) -> bytes:
    """A chat whose JSON is this text."""
    return request(text.encode("utf-8", "surrogateescape"))


def complete(prompt: object, **more: object) -> bytes:
    return request({"model": "one", "prompt": prompt, "max_tokens": 1, **more}, path=COMPLETE)


DEEP = "[" * 5000 + "]" * 5000
MESSAGE = '{"role": "user", "content": "a"}'
HOSTILE: dict[str, tuple[int, bytes]] = {
    # -- limits and floats ---------------------------------------------------------------------------------------------
    **{
        f"{name}={text}": (400, said(f'{{"model": "one", "messages": [{MESSAGE}], "{name}": {text}}}'))
        for name, texts in {
            "temperature": (
                "-1",
                "2.0001",
                "1e999",
                "-1e999",
                "NaN",
                "Infinity",
                "-Infinity",
                '"1"',
                "[]",
                "{}",
                "true",
            ),
            "top_p": ("-1", "0", "1.0000001", "1e308", "NaN", '"0.5"', "[0.5]", "false"),
            "max_tokens": ("0", "-1", "1.5", "1e9", "257", "1000000000", "99999999999999999999", '"5"', "true", "[1]"),
            "max_completion_tokens": ("0", "-5", "257", "2147483648", '"1"'),
            "n": ("0", "-1", "17", "1e2", "1000000", "2.0", '"2"', "true"),
            "top_logprobs": ("-1", "21", "1000000", "5", '"5"'),
            "seed": ("9223372036854775808", "-9223372036854775809", "1.5", '"x"', "1" + "0" * 5000),
            "top_k": ("-2", "1.5", '"5"', "1" + "0" * 30),
            "repetition_penalty": ("0", "-1", "11", "NaN"),
            "presence_penalty": ("1", "-2", "1e999", '"0"'),
            "stop": ('["a","b","c","d","e"]', '""', '[""]', "5", "[5]", "{}", json.dumps("x" * 257), "[null]"),
            "stream": ('"true"', "1", "[]"),
            "stream_options": ("{}", "5"),
            "logit_bias": ('{"1": 100}', "[1]"),
            "logprobs": ("1", '"true"'),
            "tools": ('[{"type": "function"}]', "{}"),
            "response_format": ('{"type": "json_schema", "json_schema": {}}', '"text"'),
            "messages": ("[]", "null", '"a"', "{}", "[[]]", "[null]", DEEP, f"[{','.join([MESSAGE] * 1025)}]"),
            "model": ("5", "[]", "{}"),
        }.items()
        for text in texts
    },
    "no such model": (404, chat(model="../../etc/passwd")),
    "a long name of a model": (404, chat(model="x" * 100_000)),
    "more than the context": (400, chat(messages=[{"role": "user", "content": "x" * 500_000}])),
    "many tokens of many answers": (400, complete(["a"] * 128, n=16, max_tokens=256)),
    "too many prompts": (400, complete(["a"] * 129)),
    "a token that is none": (400, complete([257])),
    "a token below nothing": (400, complete([-1])),
    "a token beyond all": (400, complete([2**70])),
    "a token that is no number": (400, complete([1.5])),
    "an empty prompt of tokens": (400, complete([[]])),
    "all log-probabilities": (400, complete("a", logprobs=-1)),
    "more log-probabilities": (400, complete("a", logprobs=50_257)),
    # -- JSON and Unicode ----------------------------------------------------------------------------------------------
    "nothing": (400, request(b"")),
    "no JSON": (400, request(b"{")),
    "a list": (400, request([])),
    "a number": (400, request(b"1")),
    "two values": (400, request(b"{}{}")),
    "no UTF-8": (400, request(b'{"a": "\xff\xfe"}')),
    "UTF-16": (400, request('{"a": 1}'.encode("utf-16"))),
    "an overlong slash": (400, request(b'{"a": "\xc0\xaf"}')),
    "half of a pair": (400, said('{"messages": [{"role": "user", "content": "\\ud800"}]}')),
    "half of a pair in a key": (400, said('{"\\udfff": 1}')),
    "a raw surrogate": (400, request(b'{"a": "\xed\xa0\x80"}')),
    "a control character": (400, request(b'{"a": "\x00"}')),
    "deep": (400, said('{"a": ' + DEEP * 10 + "}")),
    "a long number": (400, said('{"a": ' + "9" * 100_000 + "}")),
    "comments": (400, said("/* */ {}")),
    # -- Host, Origin, type --------------------------------------------------------------------------------------------
    "no host": (400, request(GOOD, Host="")),
    "two hosts": (400, request(GOOD, "Host: localhost")),
    "another's host": (421, request(GOOD, Host="evil.example")),
    "a host that begins like ours": (421, request(GOOD, Host="localhost.evil.example")),
    "a host that ends like ours": (421, request(GOOD, Host="evil-localhost")),
    "a user before the host": (421, request(GOOD, Host="evil@localhost")),
    "another address": (421, request(GOOD, Host="10.0.0.1")),
    "a port that is none": (421, request(GOOD, Host="localhost:99999999")),
    "another's page": (403, request(GOOD, Origin="https://evil.example")),
    "a page of nobody": (403, request(GOOD, Origin="null")),
    "another port's page": (403, request(GOOD, Origin="http://localhost:1")),
    "two pages": (403, request(GOOD, "Origin: http://localhost", Origin="http://localhost")),
    "a form": (415, request(GOOD, Content_Type="application/x-www-form-urlencoded")),
    "a plain text": (415, request(GOOD, Content_Type="text/plain")),
    "no type": (415, request(GOOD, Content_Type="")),
    "a file": (415, request(GOOD, Content_Type="multipart/form-data; boundary=x")),
    "packed": (415, request(GOOD, "Content-Encoding: gzip")),
    "packed twice": (415, request(GOOD, "Content-Encoding: br, gzip")),
    # -- methods and paths ---------------------------------------------------------------------------------------------
    **{
        f"{method} chat": (405, request(None, method=method)) for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS")
    },
    "POST models": (405, request({}, path="/v1/models")),
    "TRACE": (405, request(None, method="TRACE", path="/health")),
    "a method of nobody": (400, request(None, method="BREW")),
    "no method": (400, request(None, method="")),
    "a method in small letters": (400, request(None, method="p<st")),
    **{
        f"path {path[:20]}": (404, request(None, method="GET", path=path))
        for path in (
            *(
                "/etc/passwd",
                "/../../etc/passwd",
                "/%2e%2e/%2e%2e/etc/passwd",
                "/v1/",
                "/v1",
                "//v1/models",
                "/v2/models",
            ),
            *(
                "/v1/models/../../x",
                "/v1/models/%00",
                "/v1/models/%ff",
                "/V1/MODELS",
                "/v1/models/one/",
                "/.git/config",
            ),
            *("/v1/embeddings", "/static/x", "/v1/models/" + "x" * 4000, "/chat", "/health/"),
        )
    },
    "a long line": (400, request(None, method="GET", path="/" + "x" * 20_000)),
    "a space in the path": (400, request(None, method="GET", path="/v1 /models")),
    "a line break in the path": (400, request(None, method="GET", path="/v1\n/models")),
    # -- headers -------------------------------------------------------------------------------------------------------
    "a long header": (400, request(GOOD, "X-A: " + "x" * 100_000)),
    "a thousand headers": (400, request(GOOD, *(f"X-{number}: x" for number in range(1000)))),
    "a header without a name": (400, request(GOOD, ": x")),
    "a header without a colon": (400, request(GOOD, "nothing")),
    "a space before the colon": (400, request(GOOD, "X-A : x")),
    "a folded header": (400, request(GOOD, "X-A: x\r\n y")),
    "a zero in a header": (400, request(GOOD, "X-A: \x00")),
    "a lone CR in a header": (400, request(GOOD, "X-A: a\rX-B: b")),
    "expects something else": (417, request(GOOD, "Expect: 999-x")),
    # -- smuggling -----------------------------------------------------------------------------------------------------
    "two lengths": (400, request(GOOD, "Content-Length: 0")),
    "two lengths in one": (400, request(GOOD, Content_Length="5, 5")),
    "length and chunks": (400, request(b"0\r\n\r\n", "Transfer-Encoding: chunked")),
    "chunks and length": (
        400,
        request(b"0\r\n\r\n", "Content-Length: 5", Content_Length="", Transfer_Encoding="chunked"),
    ),
    "chunks that are not last": (400, request(b"0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked, identity")),
    "chunks by another name": (400, request(b"0\r\n\r\n", Content_Length="", Transfer_Encoding="xchunked")),
    "chunks twice": (400, request(b"0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked, chunked")),
    "a negative length": (400, request(GOOD, Content_Length="-1")),
    "a length with a sign": (400, request(GOOD, Content_Length="+5")),
    "a length in hex": (400, request(GOOD, Content_Length="0x5")),
    "a length beyond all": (400, request(GOOD, Content_Length="9" * 30)),
    "a length that is too long": (413, request(GOOD, Content_Length=str(2**31))),
    "a chunk without a size": (400, request(b"z\r\n\r\n", Content_Length="", Transfer_Encoding="chunked")),
    "a chunk with a sign": (400, request(b"-1\r\nx\r\n0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked")),
    "a chunk beyond all": (400, request(b"f" * 20 + b"\r\nx", Content_Length="", Transfer_Encoding="chunked")),
    "a chunk that lies": (400, request(b"2\r\nabcd\r\n0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked")),
    # -- no HTTP -------------------------------------------------------------------------------------------------------
    "TLS": (400, bytes.fromhex("1603010200010001fc0303") + b"\x00" * 100),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/9": (400, request(GOOD, version="HTTP/9.9")),
    "SSH": (400, b"SSH-2.0-OpenSSH_9.0\r\n\r\n"),
    "zeros": (400, b"\x00" * 1000 + b"\r\n\r\n"),
    "a line alone": (400, b"x\r\n\r\n"),
}


def test_there_are_150_of_them():
    assert len(HOSTILE) >= 150


def test_each_gets_the_right_refusal_and_the_next_good_one_its_answer(server):
    wrong = {}
    for name, (status, data) in HOSTILE.items():
        found, body = answer(server.port, data)
        right = found == status
        if found and right and status != 417:
            right = set(json.loads(body)["error"]) == {"message", "type", "param", "code"} if body else status == 404
        if not right:
            wrong[name] = (status, found, body[:100])
        next_one, _ = answer(server.port, request(None, method="GET", path="/v1/models"))
        assert next_one == 200, name
    assert wrong == {}
    assert answer(server.port, request(GOOD))[0] == 200


def test_what_is_smuggled_behind_a_refused_request_is_not_answered(server):
    """The connection ends: what stands behind it is no request."""
    hidden = request(None, method="GET", path="/v1/models")
    for outer in (HOSTILE["two lengths"][1], HOSTILE["length and chunks"][1], HOSTILE["a chunk that lies"][1]):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(outer + hidden)
            received = b""
            while more := connection.recv(65_536):
                received += more
        assert received.count(b"HTTP/1.") == 1
        assert b'"object": "list"' not in received


def test_requests_one_behind_the_other_are_answered_in_order(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            request(GOOD) + request({**GOOD, "n": 0}) + request(None, "Connection: close", method="GET", path="/health")
        )
        received = b""
        while more := connection.recv(65_536):
            received += more
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400", b"200"]


def test_who_sends_byte_by_byte_holds_up_nobody_and_is_cut_off(server):
    """Headers that take longer than 10 s, and a connection that says nothing; others are answered meanwhile."""
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(100)]
    begun = time.monotonic()
    for number, connection in enumerate(slow):
        connection.sendall(request(GOOD)[: number % 50])
    ended: list[float] = []

    def drip(connection: socket.socket) -> None:
        try:
            while time.monotonic() - begun < 25:
                connection.sendall(b"x")
                connection.settimeout(0.5)
                with suppress(TimeoutError):
                    if not connection.recv(1000):
                        break
        except ConnectionError:
            pass
        ended.append(time.monotonic() - begun)

    threads = [threading.Thread(target=drip, args=(connection,)) for connection in slow[:10]]
    for thread in threads:
        thread.start()
    for _ in range(5):
        assert answer(server.port, request(GOOD))[0] == 200
    for thread in threads:
        thread.join()
    assert len(ended) == 10
    assert max(ended) < 24  # cut off, and not by us
    for connection in slow:
        connection.close()


@pytest.mark.parametrize("drip", [b"", b"x"])
def test_a_body_that_does_not_come_is_not_waited_for_without_end(server, drip):
    """The reading end is what ends it here: the server gives a body 30 s."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request(GOOD, Content_Length="1000") + drip)
        assert answer(server.port, request(GOOD))[0] == 200
        connection.shutdown(socket.SHUT_WR)
        assert read(connection)[0] in (0, 400)
