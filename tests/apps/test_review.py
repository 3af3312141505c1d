"""The review in a real browser, by keyboard, with its server killed; and who may not talk to that server."""

import csv
import http.client
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from ift.apps.local_page import PageServer
from ift.apps.review import Review
from ift.errors import ConfigError
from ift.evaluation.answers import open_answers
from ift.evaluation.people import Rating, Ratings
from ift.run import RunFolder, read_jsonl, write_jsonl
from tests.running import ROOT, run

SAVED = "document.getElementById('saved').textContent === 'saved'"
SHOWN = "document.querySelector('.item:not([hidden]) .ask').textContent"
PROGRESS = "document.getElementById('progress-text').textContent"


@pytest.fixture
def a_run(tmp_path):
    """a_run(n): a run with n answers, every third of them equal to its reference."""

    def a_run(n=6, name="run", said=lambda i: f"The answer is {i if i % 3 == 0 else 'seven'}."):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        rows = [
            {"instruction": f"Task {i}", "input": "", "reference": f"The answer is {i}.", "response": said(i)}
            | {"category": "ab"[i % 2], "stop_reason": "end"}
            for i in range(n)
        ]
        write_jsonl(folder.responses, rows)
        return folder

    return a_run


@pytest.fixture
def serve():
    """serve(review, port): the address of a server on it, in a thread."""
    servers = []

    def serve(review, port=0):
        servers.append(PageServer(review, port))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].port}/"

    serve.servers = servers
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def said_of(run):
    """Instruction to rating, from the file."""
    ratings = Ratings(run.ratings, read_only=True)
    return {a.instruction: rating for a in open_answers(run.path).rows if (rating := ratings.rating("", a.key))}


def test_a_person_rates_with_the_keyboard(browser, a_run, serve):
    folder = a_run(6)
    browser.open(serve(Review([open_answers(folder.path)], blind=False)))
    assert browser.js(SHOWN) == "Task 0"
    assert browser.js("[...document.querySelectorAll('.item:not([hidden]) .text i')].length") == 0
    browser.press("5", "r")  # goes on by itself
    assert browser.js(SHOWN) == "Task 1"
    # the words that differ are marked on both sides
    assert browser.js("document.querySelector('.item:not([hidden]) .text u').textContent") == "1"
    assert browser.js("document.querySelector('.item:not([hidden]) .text i').textContent") == "seven"
    browser.press("w", "p", "c")
    browser.write("close, but r and w are letters here")
    browser.press("Escape", "ArrowLeft", "2")
    browser.wait_until(SAVED)
    assert said_of(folder) == {
        "Task 0": Rating("right", 5),
        "Task 1": Rating("wrong"),
        "Task 2": Rating("partly", 2),
        "Task 3": Rating(None, None, "close, but r and w are letters here"),
    }
    assert browser.js(PROGRESS) == "4 of 6 rated: 1 right, 1 partly, 1 wrong"

    browser.press("u")  # the stars of task 2
    browser.wait_until(SAVED)
    browser.press("u")  # the comment of task 3, and there we are
    browser.wait_until(f"{SAVED} && {SHOWN} === 'Task 3'")
    assert said_of(folder)["Task 2"] == Rating("partly")
    assert "Task 3" not in said_of(folder)

    browser.open(browser.js("location.href"))  # as one that comes back tomorrow
    assert browser.js(SHOWN) == "Task 3"
    assert browser.js(PROGRESS) == "3 of 6 rated: 1 right, 1 partly, 1 wrong"
    assert browser.complaints == []
    assert set(browser.requests) == {browser.js("location.href")}


def test_answers_are_found_by_word_category_and_verdict(browser, a_run, serve):
    folder = a_run(300)
    answers = open_answers(folder.path)
    ratings = Ratings(folder.ratings)
    for row in answers.rows[:10]:
        ratings.set(row.key, Rating("wrong" if row.category == "a" else "right"))
    browser.open(serve(Review([answers], blind=False)))
    assert browser.js(SHOWN) == "Task 10"

    def shown(field, value):
        browser.js(
            f"(() => {{ const e = document.getElementById('{field}'); e.value = {json.dumps(value)};"
            "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        return browser.js("document.querySelectorAll('#map button:not([hidden])').length")

    assert shown("status", "unrated") == 290
    assert shown("status", "wrong") == 5
    assert shown("category", "b") == 0
    assert browser.js("document.getElementById('nothing').hidden") is False
    browser.press("r")  # there is nothing to rate
    assert shown("category", "a") == 5
    assert shown("status", "wrong-words") == 100  # of 150, those that are not a multiple of 3
    assert shown("search", "task 200") == 1
    assert browser.js(SHOWN) == "Task 200"
    assert said_of(folder).keys() == {f"Task {i}" for i in range(10)}


def test_what_was_given_while_the_server_was_away_is_saved_when_it_is_back(browser, a_run, serve):
    folder = a_run(4)
    url = serve(Review([open_answers(folder.path)], blind=False))
    browser.open(url)
    (server,) = serve.servers
    server.shutdown()
    server.server_close()
    browser.press("r", "w")
    browser.wait_until("document.getElementById('saved').textContent.startsWith('NOT SAVED, trying again')")
    assert len(said_of(folder)) < 2  # the browser may have had one connection open already
    serve.servers.clear()
    serve(Review([open_answers(folder.path)], blind=False), server.port)
    browser.wait_until(SAVED)
    assert said_of(folder) == {"Task 0": Rating("right"), "Task 1": Rating("wrong")}


def start(folder):
    command = [sys.executable, "-m", "ift.cli", "review", str(folder.path), "--port", "0", "--no-browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    first, second = process.stdout.readline(), process.stdout.readline()
    return process, first, second.split()[1]


def post(url, path, value, **headers):
    host = url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(host, timeout=10)
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    given = {"Origin": f"http://{host}", "Content-Type": "application/json", **headers}
    connection.request("POST", path, body, {k: v for k, v in given.items() if v is not None})
    response = connection.getresponse()
    return response.status, response.read()


def test_kill_9_loses_no_rating(a_run):
    folder = a_run(20)
    rows = open_answers(folder.path).rows
    process, _, url = start(folder)
    try:
        for row in rows[:12]:
            assert post(url, "/rate", {"key": row.key, "verdict": "right"})[0] == 200
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
    with folder.ratings.open("ab") as file:
        file.write(b'{"key": "half')
    process, first, url = start(folder)
    try:
        assert "20 answers, 12 of them rated" in first
        assert post(url, "/rate", {"key": rows[12].key, "verdict": "wrong"})[0] == 200
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "rated     13 of 20" in rest
    assert len(said_of(folder)) == len(read_jsonl(folder.ratings)) == 13


@pytest.mark.parametrize(
    ("path", "change", "body", "status"),
    [
        ("/rate", {}, None, 200),
        ("/rate", {"Host": "evil.example"}, None, 421),
        ("/rate", {"Host": "127.0.0.1"}, None, 421),  # another port is another server
        ("/rate", {"Host": "localhost:1"}, None, 421),
        ("/rate", {"Origin": "http://evil.example"}, None, 403),
        ("/rate", {"Origin": None}, None, 403),
        ("/rate", {"Origin": "null"}, None, 403),
        ("/rate", {"Origin": "http://localhost:1"}, None, 403),
        ("/undo", {"Origin": "http://evil.example"}, None, 403),
        ("/rate", {"Content-Type": "text/plain"}, None, 415),
        ("/rate", {"Content-Type": "application/x-www-form-urlencoded"}, None, 415),
        ("/rate", {"Content-Length": "70000"}, None, 413),
        ("/rate", {"Content-Length": "9" * 5000}, None, 413),
        ("/rate", {"Content-Length": "-1"}, None, 411),
        ("/rate", {"Transfer-Encoding": "chunked"}, None, 411),
        ("/rate", {}, b"not json", 400),
        ("/rate", {}, b"[" * 60_000, 400),
        ("/rate", {}, b"\xff\xfe", 400),
        ("/rate", {}, {"key": "../../etc/passwd", "verdict": "right"}, 400),
        ("/rate", {}, {"key": ["x"], "verdict": "right"}, 400),
        ("/rate", {}, {"verdict": "right"}, 400),
        ("/rate", {}, {"key": "KEY", "verdict": "great"}, 400),
        ("/rate", {}, {"key": "KEY", "verdict": ["right"]}, 400),
        ("/rate", {}, {"key": "KEY", "stars": 17}, 400),
        ("/rate", {}, {"key": "KEY", "stars": {"a": 1}}, 400),
        ("/rate", {}, {"key": "KEY", "comment": "x" * 5001}, 400),
        ("/../secret", {}, None, 404),
        ("/ratings.jsonl", {}, None, 404),
    ],
)
def test_only_a_page_of_this_server_may_change_anything(a_run, serve, path, change, body, status):
    folder = a_run(1)
    key = open_answers(folder.path).rows[0].key
    url = serve(Review([open_answers(folder.path)], blind=False))
    value = {"key": key, "verdict": "right"} if body is None else body
    if isinstance(value, dict) and value.get("key") == "KEY":
        value["key"] = key
    assert post(url, path, value, **change)[0] == status
    assert bool(said_of(folder)) == (status == 200)


def test_pages_are_given_to_this_machines_own_names_alone(a_run, serve):
    url = serve(Review([open_answers(a_run(1).path)], blind=False))
    host = url.removeprefix("http://").rstrip("/")
    port = host.rpartition(":")[2]
    for name, status in ((host, 200), (f"localhost:{port}", 200), ("evil.example", 421), (f"evil.example:{port}", 421)):
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", "/", headers={"Host": name})
        response = connection.getresponse()
        assert response.status == status
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Access-Control-Allow-Origin"] is None
    assert serve.servers[0].server_address[0] == "127.0.0.1"


def test_a_blind_review_hides_names_and_order_and_rates_what_is_alike_once(browser, a_run, serve):
    one = a_run(12, "first-secret", said=lambda i: f"one {i}" if i else "the same")
    two = a_run(12, "second-secret", said=lambda i: f"two {i}" if i else "the same")
    review = Review([open_answers(one.path), open_answers(two.path)], blind=True)
    assert len(review.items) == 23
    order = [item.runs for item in review.items if len(item.runs) == 1]
    assert order != sorted(order)
    assert [i.answer for i in Review(review.runs[::-1], blind=True).items] == [i.answer for i in review.items]
    browser.open(serve(review))
    assert "secret" not in browser.js("document.documentElement.outerHTML")
    for _ in range(23):
        browser.press("w")
    browser.wait_until(f"{SAVED} && {PROGRESS}.startsWith('23 of 23 rated')")
    assert len(said_of(one)) == len(said_of(two)) == 12
    both = next(i for i, item in enumerate(review.items) if len(item.runs) == 2)
    for _ in range(23 - both):  # back to the one that both gave
        review.undo()
    assert "Task 0" not in said_of(one).keys() | said_of(two).keys()


def test_the_command_exports_and_imports_and_says_what_is_wrong(a_run, tmp_path):
    folder = a_run(3)
    file = tmp_path / "r.csv"
    done = run("-m", "ift.cli", "review", str(folder.path), "--export", str(file), PYTHONPATH=str(ROOT / "src"))
    assert done.returncode == 0, done.stderr
    lines = list(csv.DictReader(file.open()))
    assert [line["response"] for line in lines] == ["The answer is 0.", "The answer is seven.", "The answer is seven."]
    lines[1] |= {"verdict": "wrong", "comment": "not seven"}
    with file.open("w") as out:
        writer = csv.DictWriter(out, lines[0].keys())
        writer.writeheader()
        writer.writerows(lines)
    done = run("-m", "ift.cli", "review", str(folder.path), "--import", str(file), PYTHONPATH=str(ROOT / "src"))
    assert done.stdout.startswith("rated     1 answers of run")
    assert said_of(folder) == {"Task 1": Rating("wrong", None, "not seven")}


def test_runs_that_do_not_fit_the_command_are_refused(a_run):
    from ift.apps.review import review

    one, two = (str(a_run(1, name).path) for name in "ab")
    for places, options, message in (
        ([one], {"blind": True}, "one run given"),
        ([one, two], {}, "2 runs given"),
        ([one, two], {"blind": True, "export": ROOT / "x.csv"}, "no CSV of several runs"),
        ([one + "x"], {}, "no such run folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            review(places, **{"blind": False, "export": None, "take": None, "port": 0, "browser": False} | options)
