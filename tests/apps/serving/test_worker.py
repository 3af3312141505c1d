"""The thread that owns the models: under load, and when something fails inside."""

import http.client
import json
import queue
import socket
import time

import pytest

from ift.apps.serving.choices import Order, Piece
from ift.apps.serving.worker import Failed, Job, Worker
from ift.generation.sampling import GREEDY
from tests.serving_soak import FINE, soak


def test_under_load_each_answer_is_the_one_that_was_given_alone(server):
    """32 clients and 10 slow ones at once, one in twenty leaves; for ten minutes: python -m tests.serving_soak."""
    found = soak(server, seconds=6, clients=32, slow=10, max_tokens=20, questions=12)
    assert set(found["statuses"]) <= FINE
    assert found["statuses"][200] > 50
    assert found["left"] > 0
    assert (found["wrong"], found["cut"]) == (0, 0)
    assert found["drift"] < 0.05  # a shorter time leaves more to chance: 2 % in the long one


def test_who_does_not_read_is_hung_up_on(server):
    """4,000 pieces of 2 KB are more than a connection holds: 1,024 may wait for a client, then it is given up."""
    before = server.metric("ift_slow_readers_total")
    body = {"model": "one", "messages": [{"role": "user", "content": "a"}], "n": 16, "max_tokens": 250}
    body |= {"stream": True, "temperature": 2, "seed": 1, "logprobs": True, "top_logprobs": 20}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.sock = socket.socket()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it says how much it takes
    connection.sock.connect(("127.0.0.1", server.port))
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    deadline = time.monotonic() + 60
    while server.metric("ift_slow_readers_total") == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert server.metric("ift_slow_readers_total") == before + 1
    assert server.metric("ift_open_answers") == 0
    connection.close()


@pytest.fixture
def worker(served):
    """A worker in this process, and what it sent."""
    calls: queue.Queue = queue.Queue()
    worker = Worker([served], calls.put)
    worker.start()
    yield worker, lambda: calls.get(timeout=30)()
    worker.close()


def job(served, events, *, prompt="ab", **more) -> Job:
    order = Order(index=0, prompt=list(prompt.encode()), max_tokens=5, sampling=GREEDY, stops=(), trim=False, **more)
    return Job(served, [order], events.append, streams=False)


def finished(events, deliver):
    while not (events and (isinstance(events[-1], Failed) or events[-1].finish)):
        deliver()
    return events


@pytest.mark.parametrize("place", ["ift.generation.engine.Engine.step", "ift.apps.serving.worker.token_likelihoods"])
def test_a_failure_inside_of_a_model_fails_its_answers_and_no_later_one(served, worker, monkeypatch, capsys, place):
    def fail(*args, **more):
        raise RuntimeError("no memory")

    own, deliver = worker
    more = {"echo": "ab", "top": 1} if "likelihoods" in place else {}
    with monkeypatch.context() as patched:
        patched.setattr(place, fail)
        events: list = []
        own.submit(job(served, events, **more))
        (failed,) = finished(events, deliver)
    assert isinstance(failed, Failed)
    assert "no memory" not in failed.message
    assert "RuntimeError: no memory" in capsys.readouterr().err
    events = []
    own.submit(job(served, events, **more))
    assert finished(events, deliver)[-1].finish in ("stop", "length")


def test_a_cancelled_job_hears_of_nothing_more_and_others_go_on(served, worker):
    own, deliver = worker
    heard: list = []
    others: list = []
    long = job(served, heard)
    own.submit(long)
    own.cancel(long)
    own.submit(job(served, others))
    finished(others, deliver)
    assert heard == []
    assert all(isinstance(event, Piece) for event in others)
