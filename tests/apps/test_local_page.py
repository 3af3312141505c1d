"""What goes wrong in the local server or on its page is seen on both sides, in one line, and nothing given is lost."""

import http.client
import json
import threading
from dataclasses import dataclass, field

import pytest

from ift.apps.local_page import PageServer, Refused, kept_token
from ift.apps.review import PAGE, Review
from ift.errors import DataError
from ift.evaluation.answers import open_answers
from ift.evaluation.people import Rating, Ratings
from ift.run import RunFolder, write_jsonl

SAVED = "document.getElementById('saved').textContent"
AGAIN = "document.getElementById('again')"


@dataclass
class Failing:
    """A page of which everything raises `error`."""

    error: BaseException
    policy: str = "default-src 'none'"
    posts: dict = field(init=False)

    def __post_init__(self):
        self.posts = {"/do": lambda value: self.page()}

    def page(self):
        raise self.error


@pytest.fixture
def serve():
    """serve(app): its server, in a thread."""
    servers = []

    def serve(app):
        servers.append(PageServer(app, 0))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def request(server, method):
    host = f"127.0.0.1:{server.port}"
    connection = http.client.HTTPConnection(host, timeout=10)
    headers = {"Origin": f"http://{host}", "Content-Type": "application/json"} if method == "POST" else {}
    connection.request(method, "/do" if method == "POST" else "/", b"{}" if method == "POST" else None, headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


@pytest.mark.parametrize(
    ("error", "status", "reply", "terminal"),
    [
        (KeyError("x"), 500, "KeyError: 'x'", "ift: error: KeyError: 'x' (IFT_DEBUG=1 shows where)"),
        (RuntimeError("two\nlines"), 500, "RuntimeError: two lines", "ift: error: RuntimeError: two lines"),
        (AssertionError(), 500, "AssertionError:", "ift: error: AssertionError:"),
        (DataError("a.sqlite: locked"), 500, "a.sqlite: locked", "ift: error: a.sqlite: locked\n"),
        (OSError(28, "No space left on device"), 507, "No space left on device", "ift: error: OSError: "),
    ],
)
def test_an_exception_is_a_reply_of_one_line_and_a_line_on_the_terminal(serve, capfd, error, status, reply, terminal):
    server = serve(Failing(error))
    for method in ("GET", "POST"):
        found, body = request(server, method)
        assert found == status
        assert body.startswith(reply)
        assert body.count("\n") == 1
        printed = capfd.readouterr().err
        assert printed.startswith(terminal)
        assert printed.count("\n") == 1


def test_a_value_that_is_refused_is_the_persons_mistake_and_any_other_error_is_ours(serve, capfd):
    server = serve(Failing(Refused("no such answer")))
    assert request(server, "POST") == (400, "no such answer\n")
    assert capfd.readouterr().err == ""
    server = serve(Failing(ValueError("not a number")))  # as int("x") raises it somewhere inside
    for method in ("GET", "POST"):
        assert request(server, method) == (500, "ValueError: not a number\n")
        assert capfd.readouterr().err.startswith("ift: error: ValueError: not a number")


def test_with_ift_debug_the_terminal_has_the_traceback(serve, capfd, monkeypatch):
    monkeypatch.setenv("IFT_DEBUG", "1")
    request(serve(Failing(KeyError("x"))), "POST")
    assert "Traceback" in capfd.readouterr().err


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def review(tmp_path):
    """A review of two answers that can be made to fail."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    rows = [{"instruction": f"Task {i}", "input": "", "reference": "x", "response": "y"} for i in range(2)]
    write_jsonl(folder.responses, rows)
    there = Review([open_answers(folder.path)], blind=False)
    there.calls, there.error = [], None
    rate = there.rate

    def failing(value):
        there.calls.append(value)
        if there.error:
            raise there.error
        return rate(value)

    there.posts = {**there.posts, "/rate": failing}
    return there


def ratings(review):
    run = review.runs[0]
    now = Ratings(run.run.ratings, read_only=True).raters.get("", {})
    return {answer.instruction: now[answer.key] for answer in run.rows if answer.key in now}


def open_page(browser, url):
    browser.open(url)
    browser.wait_until("cards.size === 2")


def test_a_failing_server_is_tried_some_times_then_a_button_sends_what_was_given(browser, serve, review, capfd):
    server = serve(review)
    open_page(browser, server.url)
    browser.js("PAUSES.splice(0, PAUSES.length, 0.01, 0.02)")  # seconds
    review.error = KeyError("a mistake")
    browser.press("r", "w")
    browser.wait_until(f"!{AGAIN}.hidden")
    assert browser.js(SAVED) == "NOT SAVED: KeyError: 'a mistake'"
    assert len(review.calls) == 3
    browser.js("new Promise(go => setTimeout(go, 200))")
    assert len(review.calls) == 3  # the person decides now
    assert ratings(review) == {}
    assert capfd.readouterr().err.count("ift: error: KeyError: 'a mistake'") == 3
    review.error = None
    browser.js(f"{AGAIN}.click()")
    browser.wait_until(f"{SAVED} === 'saved' && {AGAIN}.hidden")
    assert ratings(review) == {"Task 0": Rating("right"), "Task 1": Rating("wrong")}  # in the order given


def test_what_the_server_refuses_is_not_sent_again_by_itself(browser, serve, review):
    open_page(browser, serve(review).url)
    review.error = Refused("not a rating")
    browser.press("r")
    browser.wait_until(f"!{AGAIN}.hidden")
    assert browser.js(SAVED) == "NOT SAVED: not a rating"
    assert len(review.calls) == 1
    review.error = None  # else the browser would ask whether to leave what is not saved
    browser.js(f"{AGAIN}.click()")
    browser.wait_until(f"{SAVED} === 'saved'")


def test_pauses_grow_and_end(browser, serve, review):
    open_page(browser, serve(review).url)
    pauses = json.loads(browser.js("JSON.stringify(PAUSES)"))
    assert pauses == sorted(pauses)
    assert 30 <= sum(pauses) <= 120  # seconds: a server that is started again is found


def test_a_mistake_of_the_pages_script_is_seen(browser, serve, review):
    open_page(browser, serve(review).url)
    mistake = "document.getElementById('mistake')"
    assert browser.js(f"{mistake}.hidden") is True
    browser.js("setTimeout(() => { throw new Error('of this page'); }, 0)")
    browser.wait_until(f"!{mistake}.hidden")
    assert browser.js(f"{mistake}.textContent") == "This page has made a mistake, load it again: of this page"
    assert PAGE.served


# -- the token -------------------------------------------------------------------------------------------------------


def test_the_token_is_kept_for_its_owner_alone(tmp_path):
    token = kept_token(tmp_path / "run" / ".token")
    assert len(token) == 32
    assert kept_token(tmp_path / "run" / ".token") == token
    assert (tmp_path / "run" / ".token").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".token"]


def test_a_token_that_others_could_know_is_not_used(tmp_path):
    path = tmp_path / ".token"
    path.write_text("x" * 32)
    path.chmod(0o644)
    token = kept_token(path)
    assert token != "x" * 32
    assert kept_token(path) == token
    path.write_text("short")
    assert len(kept_token(path)) == 32


def test_where_no_token_can_be_kept_each_start_has_its_own(tmp_path):
    (tmp_path / "file").write_text("")
    tokens = {kept_token(tmp_path / "file" / ".token") for _ in range(2)}
    assert {len(token) for token in tokens} == {32}
    assert len(tokens) == 2
