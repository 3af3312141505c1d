"""The review in a real browser, by keyboard, with its server killed; and who may not talk to that server."""

import csv
import http.client
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

from ift.apps.local_page import PageServer
from ift.apps.review import Review, rater_of
from ift.errors import ConfigError
from ift.evaluation.answers import open_answers
from ift.evaluation.overlap import word_diff
from ift.evaluation.people import Rating, Ratings
from ift.run import RunFolder, read_jsonl, write_jsonl
from tests.reviewers import two_reviewers
from tests.running import ROOT, run

SAVED = "document.getElementById('saved').textContent === 'saved'"
STATE = "document.getElementById('saved').textContent"
SHOWN = "document.getElementById('instruction').textContent"
SEEN = "drawn !== null && drawn === card()"  # the texts of the current answer stand on the page
PROGRESS = "document.getElementById('progress-text').textContent"
NOTICE = "(document.getElementById('notice').hidden ? '' : document.getElementById('notice').textContent)"
SHIFT, CONTROL, ALT = 8, 2, 1


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

    def serve(review, port=0, **more):
        servers.append(PageServer(review, port, **more))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].port}/"

    serve.servers = servers
    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def said_of(run, rater=""):
    """Instruction to rating, from the file."""
    ratings = Ratings(run.ratings, read_only=True)
    return {a.instruction: rating for a in open_answers(run.path).rows if (rating := ratings.rating(rater, a.key))}


def open_page(browser, url):
    """Open it and wait until the texts of an answer are there."""
    browser.open(url)
    browser.wait_until(SEEN)


def press(browser, *keys):
    """As a person does: no key before the answer is there."""
    for key in keys:
        browser.wait_until(SEEN)
        browser.press(key)


def change(review, place, rater="", id=None, **fields):
    """What another tab sends: each field from what it was to what it is to be."""
    value = {"key": review.items[place].key, "id": id or os.urandom(8).hex(), "rater": rater, "seen": review._seen()}
    return review.rate(value | {"change": {name: list(pair) for name, pair in fields.items()}})


def test_a_person_rates_with_the_keyboard(browser, a_run, serve):
    folder = a_run(6)
    open_page(browser, serve(Review([open_answers(folder.path)], blind=False)))
    assert browser.js(SHOWN) == "Task 0"
    assert browser.js("document.querySelectorAll('#item .text i').length") == 0
    press(browser, "5", "r")  # goes on by itself
    browser.wait_until(SEEN)
    assert browser.js(SHOWN) == "Task 1"
    # the words that differ are marked on both sides
    assert browser.js("document.querySelector('#item .text u').textContent") == "1"
    assert browser.js("document.querySelector('#item .text i').textContent") == "seven"
    press(browser, "w", "p", "c")
    browser.write("close, but r and w are letters here")
    press(browser, "Escape", "ArrowLeft", "2")
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

    open_page(browser, browser.js("location.href"))  # as one that comes back tomorrow
    assert browser.js(SHOWN) == "Task 3"
    assert browser.js(PROGRESS) == "3 of 6 rated: 1 right, 1 partly, 1 wrong"
    press(browser, "u")  # takes back what was given before
    browser.wait_until(f"{SAVED} && {SHOWN} === 'Task 2'")
    assert "Task 2" not in said_of(folder)
    assert browser.complaints == []
    page = browser.js("location.origin") + "/"
    assert set(browser.requests) <= {page, *(f"{page}{name}" for name in ("open", "items", "undo", "news"))}


def test_answers_are_found_by_word_category_verdict_and_number(browser, a_run, serve):
    folder = a_run(300)
    answers = open_answers(folder.path)
    ratings = Ratings(folder.ratings)
    for row in answers.rows[:10]:
        ratings.set(row.key, Rating("wrong" if row.category == "a" else "right"))
    open_page(browser, serve(Review([answers], blind=False)))
    assert browser.js(SHOWN) == "Task 10"

    def shown(field, value):
        number = browser.js("searches")
        browser.js(
            f"(() => {{ const e = document.getElementById('{field}'); e.value = {json.dumps(value)};"
            "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        browser.wait_until(
            f"searches > {number} && document.getElementById('found').textContent.endsWith('found')"
            f" && (current === null || {SEEN})"
        )
        return browser.js("places()")

    assert shown("status", "unrated") == 290
    assert shown("status", "wrong") == 5
    assert shown("category", "1") == 0  # b
    assert browser.js("document.getElementById('nothing').hidden") is False
    browser.press("r")  # there is nothing to rate
    assert shown("category", "0") == 5
    assert shown("status", "wrong-words") == 100  # of 150, those that are not a multiple of 3
    assert shown("search", "TASK 200") == 1
    assert browser.js(SHOWN) == "Task 200"
    assert shown("search", "") == 100
    browser.press("g")
    browser.write("99")
    browser.press("Enter")
    browser.wait_until(f"{SEEN} && {SHOWN} === 'Task 98'")
    browser.js("goTo(99)")  # it is of the other category: the next one that is shown
    browser.wait_until(f"{SEEN} && {SHOWN} === 'Task 100'")
    browser.js("document.getElementById('map').focus()")
    browser.press("End")
    browser.wait_until(f"{SEEN} && {SHOWN} === 'Task 298'")
    assert said_of(folder).keys() == {f"Task {i}" for i in range(10)}


def test_what_was_given_while_the_server_was_away_is_saved_when_it_is_back(browser, a_run, serve):
    folder = a_run(4)
    url = serve(Review([open_answers(folder.path)], blind=False))
    open_page(browser, url)
    browser.wait_until("cards.size === 4")
    (server,) = serve.servers
    server.shutdown()
    server.server_close()
    browser.js("look()")
    browser.wait_until(f"{STATE}.startsWith('no connection to the server')")  # said before anything is given
    browser.press("r", "w")
    browser.wait_until(f"{STATE}.startsWith('NOT SAVED, trying again: no connection to the server')")
    assert said_of(folder) == {}
    serve.servers.clear()
    serve(Review([open_answers(folder.path)], blind=False), server.port)
    browser.wait_until(SAVED)
    assert said_of(folder) == {"Task 0": Rating("right"), "Task 1": Rating("wrong")}


def test_what_was_given_outlives_its_tab_and_a_server_that_did_it_twice(browser, a_run, serve):
    folder = a_run(4)
    review = Review([open_answers(folder.path)], blind=False)
    rate, lost = review.rate, []

    def without_reply(value):
        lost.append(rate(value))
        raise OSError(5, "the reply is lost")

    open_page(browser, serve(review))
    review.posts = {**review.posts, "/rate": without_reply}
    browser.press("r")
    browser.wait_until(f"{STATE}.startsWith('NOT SAVED')")
    assert lost
    review.undo({"key": review.items[0].key, "id": lost[0]["step"], "rater": "", "seen": [0]})  # in another tab
    review.posts = {**review.posts, "/rate": rate}
    open_page(browser, browser.js("location.href"))
    browser.wait_until("!outbox.length")
    assert said_of(folder) == {}
    assert len(read_jsonl(folder.ratings)) == 2


# -- two at once -----------------------------------------------------------------------------------------------------


def test_the_undo_of_one_never_takes_back_what_another_gave(browser, a_run, serve):
    folder = a_run(4)
    review = Review([open_answers(folder.path)], blind=False)
    open_page(browser, serve(review) + "?rater=anna")
    browser.press("r")
    browser.wait_until(SAVED)
    change(review, 0, "ben", verdict=(None, "wrong"))
    change(review, 1, "ben", verdict=(None, "wrong"))
    browser.press("u")
    browser.wait_until(f"{SAVED} && document.getElementById('undo').disabled")
    assert said_of(folder, "anna") == {}
    assert said_of(folder, "ben") == {"Task 0": Rating("wrong"), "Task 1": Rating("wrong")}


def test_a_stale_tab_wipes_nothing_and_says_what_holds(browser, a_run, serve):
    folder = a_run(4)
    review = Review([open_answers(folder.path)], blind=False)
    open_page(browser, serve(review))
    change(review, 0, verdict=(None, "right"))
    press(browser, "4")  # stars of a tab that knows of no verdict
    browser.wait_until(SAVED)
    assert said_of(folder) == {"Task 0": Rating("right", 4)}
    assert browser.js("document.querySelector('.verdict.right').getAttribute('aria-pressed')") == "true"
    change(review, 0, verdict=("right", "partly"))
    press(browser, "w")
    browser.wait_until(f"{SAVED} && {NOTICE} !== ''")
    assert browser.js(NOTICE).startswith("Answer 1 was rated in another tab in the meantime: partly, 4 stars.")
    assert said_of(folder) == {"Task 0": Rating("partly", 4)}
    press(browser, "ArrowLeft", "ArrowLeft")
    change(review, 0, stars=(4, 1))
    browser.js("look()")
    browser.wait_until(f"{NOTICE}.startsWith('This answer has just been rated in another tab: partly')")
    assert browser.js("card().rating.stars") == 1
    press(browser, "w")  # now that it is known
    browser.wait_until(SAVED)
    assert said_of(folder) == {"Task 0": Rating("wrong", 1)}


def test_an_undo_of_what_another_tab_has_changed_since_says_so(browser, a_run, serve):
    folder = a_run(4)
    review = Review([open_answers(folder.path)], blind=False)
    open_page(browser, serve(review))
    press(browser, "r")
    browser.wait_until(SAVED)
    change(review, 0, verdict=("right", "wrong"))
    press(browser, "u")
    browser.wait_until(f"{SAVED} && {NOTICE} !== ''")
    assert said_of(folder) == {"Task 0": Rating("wrong")}


def test_two_servers_on_one_run_know_of_each_other(a_run):
    folder = a_run(4)
    one, other = (Review([open_answers(folder.path)], blind=False) for _ in range(2))
    seen = one.open({"rater": "anna", "version": one.version})["seen"]
    assert change(other, 2, "anna", verdict=(None, "wrong"))["taken"]
    news = one.news({"rater": "anna", "version": one.version, "seen": seen})
    assert news["changed"] == [[2, {"verdict": "wrong", "stars": None, "comment": ""}]]
    assert not change(one, 2, "anna", verdict=(None, "right"))["taken"]
    assert one.open({"rater": "ben", "version": one.version})["kinds"] == "...."


def test_a_page_of_other_answers_rates_nothing(browser, a_run, serve):
    folder = a_run(3)
    url = serve(Review([open_answers(folder.path)], blind=False))
    open_page(browser, url)
    browser.wait_until("cards.size === 3")
    (server,) = serve.servers
    server.shutdown()
    server.server_close()
    serve.servers.clear()
    write_jsonl(folder.responses, reversed(read_jsonl(folder.responses)))  # evaluated again: other places
    serve(Review([open_answers(folder.path)], blind=False), server.port)
    browser.press("w")
    browser.wait_until(f"{NOTICE}.startsWith('The answers are others by now')")
    assert said_of(folder) == {"Task 0": Rating("wrong")}  # the one that was seen


def test_raters_are_named_and_how_far_they_agree_is_shown(browser, a_run, serve):
    folder = a_run(8)
    review = Review([open_answers(folder.path)], blind=False, rater="anna")
    for place, (ours, theirs) in enumerate(zip("rrpwwr", "rrpwrr", strict=True)):
        for rater, letter in (("anna", ours), ("<b>ben", theirs)):
            verdict = next(name for name in ("right", "partly", "wrong") if name[0] == letter)
            change(review, place, rater, verdict=(None, verdict))
    open_page(browser, serve(review))
    assert browser.js("document.getElementById('rater').value") == "anna"
    assert browser.js(SHOWN) == "Task 6"
    browser.js("document.getElementById('agreement').open = true")
    browser.wait_until("document.querySelectorAll('#pairs td').length")
    cells = browser.js("[...document.querySelectorAll('#pairs td')].map(e => e.textContent)")
    # squared distances: observed 4/6; by chance (7 * 1 + 3 * 1 + 11 * 4) / 36 = 3/2; 1 - (4/6) / (3/2) = 5/9
    assert cells == ["<b>ben and anna", "verdicts", "6", "83 %", "0.56"]
    browser.js(
        "(() => { const e = document.getElementById('rater'); e.value = ' ben ';"
        "e.dispatchEvent(new Event('change')) })()"
    )
    browser.wait_until(f"rater === 'ben' && {SEEN} && {PROGRESS}.startsWith('0 of 8')")
    press(browser, "w")
    browser.wait_until(SAVED)
    open_page(browser, browser.js("location.href"))  # the address keeps the name
    assert browser.js(PROGRESS).startswith("1 of 8")
    assert len(said_of(folder, "ben")) == 1
    differ = review.find({"rater": "", "version": review.version, "status": "differ"})
    assert differ["shown"] == [4]


# -- keys ------------------------------------------------------------------------------------------------------------


def test_a_held_key_rates_one_answer(browser, a_run, serve):
    folder = a_run(8)
    open_page(browser, serve(Review([open_answers(folder.path)], blind=False)))
    browser.wait_until("cards.size === 8")
    browser.key("r", repeats=5)
    browser.wait_until(f"{SAVED} && {SHOWN} === 'Task 1'")
    browser.js("document.querySelector('.verdict.wrong').focus()")
    browser.key("Enter", repeats=5)
    browser.wait_until(f"{SAVED} && {SHOWN} === 'Task 2'")
    browser.key("u", repeats=5)
    browser.wait_until(f"{SAVED} && {SHOWN} === 'Task 1'")
    assert said_of(folder) == {"Task 0": Rating("right")}
    browser.key("ArrowRight", repeats=3)  # but it goes through answers
    browser.wait_until(f"{SHOWN} === 'Task 5'")


@pytest.mark.parametrize(
    ("layout", "key", "code", "modifiers", "rating"),
    [
        ("German", "r", "KeyR", 0, Rating("right")),
        ("German, caps lock", "R", "KeyR", 0, Rating("right")),
        ("Dvorak: as labelled", "r", "KeyO", 0, Rating("right")),
        ("Dvorak: a comma where others have w", ",", "KeyW", 0, None),
        ("Dvorak: l where others have p", "l", "KeyP", 0, None),
        ("Russian", "к", "KeyR", 0, Rating("right")),
        ("Greek", "ς", "KeyW", 0, Rating("wrong")),
        ("Hebrew", "'", "KeyW", 0, Rating("wrong")),
        ("Arabic", "ح", "KeyP", 0, Rating("partly")),
        ("Korean", "Process", "KeyR", 0, Rating("right")),
        ("French: digits with Shift", "4", "Digit4", SHIFT, Rating(stars=4)),
        ("French: digits without Shift", "'", "Digit4", 0, Rating(stars=4)),
        ("Arabic digits", "٤", "Digit4", 0, Rating(stars=4)),
        ("numbers at the right", "4", "Numpad4", 0, Rating(stars=4)),
        ("US, Shift", "$", "Digit4", SHIFT, None),
        ("US, Shift", "R", "KeyR", SHIFT, None),
        ("copying, printing", "p", "KeyP", CONTROL, None),
        ("a menu", "r", "KeyR", ALT, None),
    ],
)
def test_keys_work_in_every_layout(browser, page_of_keys, layout, key, code, modifiers, rating):
    folder = page_of_keys
    browser.js("document.getElementById('go-on').checked = false")
    browser.key(key, code, modifiers=modifiers)
    browser.wait_until(SAVED if rating else SEEN)
    assert said_of(folder) == ({"Task 0": rating} if rating else {})


@pytest.fixture
def page_of_keys(browser, a_run, serve):
    folder = a_run(1)
    open_page(browser, serve(Review([open_answers(folder.path)], blind=False)))
    return folder


@pytest.mark.parametrize("field", ["search", "jump", "rater", "comment", "status"])
def test_keys_do_nothing_while_something_is_typed(browser, page_of_keys, field):
    folder = page_of_keys
    browser.js(f"document.getElementById('{field}').focus()")
    browser.press("r", "5", "u")
    browser.press("Escape")
    assert browser.js("document.activeElement === document.body")
    assert {rating.verdict for rating in said_of(folder).values()} <= {None}
    assert {rating.stars for rating in said_of(folder).values()} <= {None}


def test_a_comment_that_is_being_typed_is_not_saved(browser, a_run, serve):
    folder = a_run(3)
    review = Review([open_answers(folder.path)], blind=False)
    open_page(browser, serve(review))
    browser.press("4")
    browser.wait_until(SAVED)
    browser.press("c")
    browser.write("half a th")
    assert browser.js(STATE) == "comment not saved yet"
    browser.js("look()")  # it stays so, whatever else is saved
    change(review, 0, "ben", verdict=(None, "right"))
    assert browser.js(STATE) == "comment not saved yet"
    browser.js("rate = () => {}")  # the tab crashes: nothing more is sent
    open_page(browser, browser.js("location.href"))
    press(browser, "ArrowLeft")
    browser.wait_until(f"{SEEN} && {SHOWN} === 'Task 0'")
    assert browser.js("document.getElementById('comment').value") == "half a th"
    assert said_of(folder) == {"Task 0": Rating(stars=4)}
    browser.press("c")
    browser.write("ought")
    browser.press("Escape")
    browser.wait_until(SAVED)
    assert said_of(folder)["Task 0"].comment in ("half a thought", "oughthalf a th")  # where the cursor was


def test_a_comment_that_another_tab_changed_is_told_and_what_was_typed_stays(browser, a_run, serve):
    folder = a_run(3)
    review = Review([open_answers(folder.path)], blind=False)
    open_page(browser, serve(review))
    change(review, 0, comment=("", "theirs"))
    browser.press("c")
    browser.write("mine")
    browser.press("Escape")
    browser.wait_until(f"{NOTICE}.includes('“theirs”')")
    assert browser.js("document.getElementById('comment').value") == "mine"
    assert browser.js(STATE) == "comment not saved yet"
    assert said_of(folder)["Task 0"].comment == "theirs"
    browser.press("ArrowRight")
    browser.wait_until(f"{SAVED} && {SHOWN} === 'Task 1'")
    assert said_of(folder)["Task 0"].comment == "mine"


# -- the server ------------------------------------------------------------------------------------------------------


def start(folder, *more, port=0):
    command = [sys.executable, "-m", "ift.cli", "review", str(folder.path), "--port", str(port), "--no-browser", *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    first, second = process.stdout.readline(), process.stdout.readline()
    return process, first, second.split()[1]


def post(url, path, value, **headers):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    token = parse_qs(parts.query).get("token", [""])[0]
    given = {"Origin": f"http://{parts.netloc}", "Content-Type": "application/json", "X-Token": token, **headers}
    connection.request("POST", path, body, {k: v for k, v in given.items() if v is not None})
    response = connection.getresponse()
    return response.status, response.read()


def a_rating(key, verdict, rater="anna"):
    return {"key": key, "id": f"{rater} {key}", "rater": rater, "seen": [0], "change": {"verdict": [None, verdict]}}


def test_kill_9_loses_no_rating(a_run):
    folder = a_run(20)
    rows = open_answers(folder.path).rows
    process, _, url = start(folder, "--rater", "anna")
    try:
        for row in rows[:12]:
            assert post(url, "/rate", a_rating(row.key, "right"))[0] == 200
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
    with folder.ratings.open("ab") as file:
        file.write(b'{"key": "half')
    process, first, again = start(folder, "--rater", "anna")
    try:
        assert "20 answers, 12 of them rated by anna" in first
        assert urlsplit(again).query == urlsplit(url).query  # open pages go on
        assert post(again, "/rate", a_rating(rows[12].key, "wrong"))[0] == 200
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "rated     13 of 20 by anna" in rest
    assert len(said_of(folder, "anna")) == len(read_jsonl(folder.ratings)) == 13


def test_two_reviewers_at_once_lose_nothing_when_the_server_is_killed(tmp_path):
    assert two_reviewers(tmp_path, answers=60, ratings=60, kills=2) == {"anna": 60, "ben": 60}


def test_a_large_run_is_compared_word_by_word_only_where_it_is_looked_at(a_run, monkeypatch):
    folder = a_run(5200, said=lambda i: f"An answer of many, {i}")
    compared = []
    monkeypatch.setattr("ift.apps.review.word_diff", lambda *texts: compared.append(texts) or word_diff(*texts))
    review = Review([open_answers(folder.path)], blind=False)
    request = {"rater": "anna", "version": review.version}
    assert len(review.page()) < 60_000
    assert review.open(request)["kinds"] == "." * 5200
    assert compared == []
    review.cards(request | {"items": [7, 5199]})
    assert len(compared) == 2


REQUEST = {"id": "1", "rater": "", "seen": [0], "change": {"verdict": [None, "right"]}, "key": "KEY"}


@pytest.mark.parametrize(
    ("path", "change", "body", "status"),
    [
        ("/rate", {}, None, 200),
        ("/rate", {"X-Token": None}, None, 403),
        ("/rate", {"X-Token": "wrong"}, None, 403),
        ("/rate", {"Host": "evil.example"}, None, 421),
        ("/rate", {"Host": "127.0.0.1.evil.example"}, None, 421),
        ("/rate", {"Host": "localhost:80@evil.example"}, None, 421),
        ("/rate", {"Host": "localhost:1"}, None, 403),  # the port is forwarded: then its pages are from there
        ("/rate", {"Host": "localhost:1", "Origin": "http://localhost:1"}, None, 200),
        ("/rate", {"Host": "[::1]:9000", "Origin": "http://[::1]:9000"}, None, 200),
        ("/rate", {"Host": "localhost:1", "Origin": "https://localhost:1"}, None, 200),
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
        ("/rate", {}, b"[]", 400),
        ("/rate", {}, b"[" * 60_000, 400),
        ("/rate", {}, b"\xff\xfe", 400),
        ("/rate", {}, {"key": "../../etc/passwd"}, 400),
        ("/rate", {}, {"key": ["x"]}, 400),
        ("/rate", {}, {"key": None}, 400),
        ("/rate", {}, {"id": ""}, 400),
        ("/rate", {}, {"id": 4}, 400),
        ("/rate", {}, {"rater": "a\nb\x00"}, 400),
        ("/rate", {}, {"rater": {"a": 1}}, 400),
        ("/rate", {}, {"change": {"verdict": [None, "great"]}}, 400),
        ("/rate", {}, {"change": {"verdict": [None, ["right"]]}}, 400),
        ("/rate", {}, {"change": {"verdict": "right"}}, 400),
        ("/rate", {}, {"change": {"key": ["a", "b"]}}, 400),
        ("/rate", {}, {"change": {"stars": [None, 17]}}, 400),
        ("/rate", {}, {"change": {"stars": [None, {"a": 1}]}}, 400),
        ("/rate", {}, {"change": {"comment": ["", "x" * 5001]}}, 400),
        ("/items", {}, {"version": "VERSION", "items": [1]}, 400),
        ("/items", {}, {"version": "VERSION", "items": [-1]}, 400),
        ("/items", {}, {"version": "VERSION", "items": [True]}, 400),
        ("/items", {}, {"version": "another", "items": [0]}, 400),
        ("/find", {}, {"version": "VERSION", "status": "great"}, 400),
        ("/find", {}, {"version": "VERSION", "category": 7}, 400),
        ("/find", {}, {"version": "VERSION", "words": "x" * 1001}, 400),
        ("/news", {}, {"version": "VERSION", "seen": [0, 0]}, 400),
        ("/../secret", {}, None, 404),
        ("/ratings.jsonl", {}, None, 404),
    ],
)
def test_only_a_page_of_this_server_may_change_anything(a_run, serve, path, change, body, status):
    folder = a_run(1)
    review = Review([open_answers(folder.path)], blind=False)
    url = serve(review, token="secret " * 5)
    value = body if isinstance(body, bytes) else REQUEST | (body or {})
    if isinstance(value, dict):
        value = {k: {"KEY": review.items[0].key, "VERSION": review.version}.get(str(v), v) for k, v in value.items()}
    assert post(url, path, value, **{"X-Token": "secret " * 5, **change})[0] == status
    assert bool(said_of(folder)) == (status == 200)


def get(port, host, path="/"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host})
    response = connection.getresponse()
    return response.status, response.headers, response.read().decode()


def test_pages_are_given_to_this_machines_own_names_alone_and_with_the_token_alone(a_run, serve):
    serve(Review([open_answers(a_run(1).path)], blind=False), token="t" * 32)
    (server,) = serve.servers
    port = server.port
    for name, status in (
        (f"127.0.0.1:{port}", 200),
        (f"localhost:{port}", 200),
        ("localhost:9000", 200),  # ssh -L 9000:localhost:8642
        ("[::1]:9000", 200),
        ("evil.example", 421),
        (f"evil.example:{port}", 421),
        ("localhost.evil.example", 421),
    ):
        found, headers, _ = get(port, name, f"/?token={server.token}")
        assert found == status
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Access-Control-Allow-Origin"] is None
        assert get(port, name, "/?token=other")[0] == (403 if status == 200 else 421)
    assert server.server_address[0] == "127.0.0.1"


def test_a_proxy_shows_the_page_under_the_address_that_was_given(a_run, serve):
    folder = a_run(1)
    review = Review([open_answers(folder.path)], blind=False)
    url = serve(review, token="t" * 32, address="https://hub.example/user/me/proxy/8642")
    (server,) = serve.servers
    assert server.url == f"https://hub.example/user/me/proxy/8642/?token={server.token}"
    assert get(server.port, "hub.example", f"/?token={server.token}")[0] == 200
    assert get(server.port, "other.example", f"/?token={server.token}")[0] == 421
    value = REQUEST | {"key": review.items[0].key}
    token = {"X-Token": server.token}
    assert post(url, "/rate", value, Host="hub.example", Origin="https://other.example", **token)[0] == 403
    assert post(url, "/rate", value, Host="hub.example", Origin="https://hub.example", **token)[0] == 200
    for wrong in ("hub.example", "ftp://hub.example/", "https://hub.example/?a=b", "https://"):
        with pytest.raises(ConfigError, match="not the address of a page"):
            PageServer(review, 0, address=wrong)


class Forwarded(http.server.BaseHTTPRequestHandler):
    """A proxy as people have: another port, below a path, with the Host of the browser."""

    def forward(self):
        length = int(self.headers.get("Content-Length", 0))
        connection = http.client.HTTPConnection("127.0.0.1", self.server.to, timeout=10)
        path = self.path.removeprefix("/user/me/proxy")
        connection.request(self.command, path, self.rfile.read(length) or None, dict(self.headers))
        response = connection.getresponse()
        body = response.read()
        self.send_response(response.status)
        for name in ("Content-Type", "Content-Length", "Content-Security-Policy"):
            self.send_header(name, response.headers[name])
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = forward

    def log_message(self, *args):
        pass


def test_the_page_works_behind_another_port_and_path(browser, a_run, serve):
    folder = a_run(3)
    serve(Review([open_answers(folder.path)], blind=False), token="t" * 32)
    (server,) = serve.servers
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Forwarded)
    proxy.to = server.port
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        open_page(browser, f"http://localhost:{proxy.server_address[1]}/user/me/proxy/?token={server.token}")
        press(browser, "r")
        browser.wait_until(SAVED)
        assert said_of(folder) == {"Task 0": Rating("right")}
    finally:
        proxy.shutdown()
        proxy.server_close()


def test_a_blind_review_hides_names_and_order_and_rates_what_is_alike_once(browser, a_run, serve):
    one = a_run(12, "first-secret", said=lambda i: f"one {i}" if i else "the same")
    two = a_run(12, "second-secret", said=lambda i: f"two {i}" if i else "the same")
    review = Review([open_answers(one.path), open_answers(two.path)], blind=True)
    assert len(review.items) == 23
    order = [item.runs for item in review.items if len(item.runs) == 1]
    assert order != sorted(order)
    assert [i.answer for i in Review(review.runs[::-1], blind=True).items] == [i.answer for i in review.items]
    open_page(browser, serve(review))
    assert "secret" not in browser.js("document.documentElement.outerHTML")
    press(browser, *"w" * 23)
    browser.wait_until(f"{SAVED} && {PROGRESS}.startsWith('23 of 23 rated')")
    assert len(said_of(one)) == len(said_of(two)) == 12
    both = next(i for i, item in enumerate(review.items) if len(item.runs) == 2)
    open_page(browser, browser.js("location.href"))
    for left in range(22, both - 1, -1):  # back to the one that both gave
        browser.press("u")
        browser.wait_until(f"{SAVED} && {PROGRESS}.startsWith('{left} of')")
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
    take = ["-m", "ift.cli", "review", str(folder.path), "--import", str(file), "--rater", "anna"]
    done = run(*take, PYTHONPATH=str(ROOT / "src"))
    assert done.stdout.startswith("rated     1 answers of run")
    assert said_of(folder, "anna") == {"Task 1": Rating("wrong", None, "not seven")}


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
            review(places, **{**OPTIONS, **options})


OPTIONS = {"blind": False, "rater": None, "export": None, "take": None, "port": 0, "address": "", "browser": False}


def test_who_rates_is_the_login_name_but_what_an_earlier_release_began_goes_on_without_one(a_run, monkeypatch):
    folder = a_run(2)
    answers = [open_answers(folder.path)]
    monkeypatch.setattr("getpass.getuser", lambda: "anna")
    assert rater_of(None, answers) == "anna"
    assert rater_of(" ben ", answers) == "ben"
    row = answers[0].rows[0]
    folder.ratings.write_text(json.dumps({"key": row.key, "verdict": "right", "unix_time": 1.0}) + "\n")
    assert rater_of(None, answers) == ""
    assert rater_of("ben", answers) == "ben"
    with pytest.raises(ConfigError, match="--rater: a rater's name must be"):
        rater_of("x" * 61, answers)

    def nobody():
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.setattr("getpass.getuser", nobody)
    folder.ratings.unlink()
    assert rater_of(None, answers) == ""
