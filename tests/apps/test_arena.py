"""The arena in a real browser: hidden models, votes that survive a kill, answers at once, and text that stays text."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from ift.apps.arena import Arena, Contender, Models, arena, open_contenders
from ift.apps.local_page import PageServer, Refused
from ift.cli import evaluate_settings
from ift.errors import ConfigError, DataError
from ift.evaluation.arena.battles import BOTH_BAD, read_votes
from ift.evaluation.arena.ratings import collect
from ift.evaluation.arena.votes import PERSON, SAME, Votes
from ift.run import RunFolder, write_jsonl
from tests.pages.test_hostile_answers import HOSTILE
from tests.running import ROOT
from tests.tiny_run import make_run

SAVED = "document.getElementById('saved').textContent === 'saved'"
ASKED = "document.getElementById('asked').textContent"
NAMES = "[...document.querySelectorAll('.who')].map(e => e.textContent)"
SAID = "[...document.querySelectorAll('.said')].map(e => e.textContent)"
PROGRESS = "document.getElementById('progress-text').textContent"
READY = f"{SAVED} && !document.getElementById('skip').disabled"
TOLD = f"{SAVED} && !document.getElementById('next').hidden"


@pytest.fixture
def a_run(tmp_path):
    """a_run(name): a folder with answers to n rows; said(i) is what it says."""

    def a_run(name, said=None, n=6):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        said = said or (lambda i: f"{name[0]} says {i}")
        rows = [{"instruction": f"Task {i}", "input": "", "response": said(i)} for i in range(n)]
        write_jsonl(folder.responses, rows)
        return folder

    return a_run


@pytest.fixture
def serve(tmp_path):
    """serve(*runs): the address of an arena of them, and the arena; in a thread of this process."""
    open_ones = []

    def serve(*runs, settings=("eval.generate.max_new_tokens=8",)):
        contenders = open_contenders([str(run.path) for run in runs])
        votes = Votes(tmp_path / "arena.sqlite")
        there = Arena(contenders, votes, Models(evaluate_settings(list(settings))), lambda: collected(votes))
        server = PageServer(there, 0, token=votes.token)
        open_ones.append((server, votes))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.url, there

    def collected(votes):
        return collect({}, votes=votes.path, battles=None)

    yield serve
    for server, votes in open_ones:
        server.shutdown()
        server.server_close()
        votes.close()


def standing(path):
    """instruction -> (who won, who judged) of the votes in a database."""
    with Votes(path, read_only=True) as votes:
        battles, dropped = votes.battles()
    assert dropped == []
    winner = {"model_a": lambda b: b.model_a, "model_b": lambda b: b.model_b}
    return {b.instruction: (winner.get(b.winner, lambda b: b.winner)(b), b.judge) for b in battles}


def click(browser, selector):
    browser.js(f"document.querySelector({json.dumps(selector)}).click()")


def vote(browser, *keys):
    for key in keys:
        browser.wait_until(READY)
        browser.press(key)
        browser.wait_until(TOLD)


def test_a_click_reads_the_votes_once(a_run, serve):
    _, there = serve(
        a_run("one", said=lambda i: "both" if i % 2 else "o"), a_run("two", said=lambda i: "both" if i % 2 else "t")
    )
    statements = []
    there.votes.db.set_trace_callback(statements.append)

    def scans(click, value):
        statements.clear()
        reply = click(value)
        return reply, sum("SELECT max(id) FROM votes GROUP BY battle" in statement for statement in statements)

    battle, n = scans(there.next, {})
    assert n == 1
    for _ in range(2):
        stands, n = scans(there.vote, {"battle": battle["battle"], "winner": "model_a"})
        assert (stands["winner"], n) == ("model_a", 1)
        battle, n = scans(there.next, {})
        assert n == 1
    assert battle["progress"]["votes"] == 2
    assert battle["progress"] == there._progress()  # equal answers on the way are counted too
    undone, n = scans(there.undo, {})
    assert n == 1
    assert undone["progress"]["votes"] == 1


# -- voting ----------------------------------------------------------------------------------------------------------


def test_names_are_hidden_until_the_vote_and_told_after_it(browser, a_run, serve, tmp_path):
    url, _ = serve(a_run("secret-one"), a_run("secret-two", said=lambda i: f"t says {i}"))
    browser.open(url)
    browser.wait_until(READY)
    assert "secret" not in browser.js("document.documentElement.outerHTML")
    assert browser.js(NAMES) == ["", ""]
    instruction, said = browser.js(ASKED), browser.js(SAID)
    assert {text[0] for text in said} == {"s", "t"}
    vote(browser, "1")
    names = browser.js(NAMES)
    assert names == ["secret-one" if text.startswith("s") else "secret-two" for text in said]
    assert standing(tmp_path / "arena.sqlite") == {instruction: (names[0], PERSON)}
    assert browser.js(PROGRESS) == "1 vote · 5 of 6 left"
    browser.press(" ")  # the next one
    browser.wait_until(READY)
    assert browser.js(ASKED) != instruction
    assert browser.js(NAMES) == ["", ""]
    assert browser.complaints == []
    assert {request.split("?")[0] for request in browser.requests} == {
        url.split("?")[0] + path for path in ("", "next", "vote")
    }


def test_all_rows_are_voted_on_with_keys_and_mouse_undone_skipped_and_gone_on_with(browser, a_run, serve, tmp_path):
    url, _ = serve(a_run("one"), a_run("two", said=lambda i: f"t says {i}"))
    browser.open(url)
    vote(browser, "3")
    first = browser.js(ASKED)
    browser.press("Enter")
    vote(browser, "x")
    second = browser.js(ASKED)
    click(browser, "#next")
    browser.wait_until(READY)
    third = browser.js(ASKED)
    click(browser, "[data-winner=model_b]")
    browser.wait_until(TOLD)
    third_winner = browser.js(NAMES)[1]
    browser.press("n")
    browser.wait_until(READY)
    skipped = browser.js(ASKED)
    browser.press("s")
    browser.wait_until(f"{READY} && {ASKED} !== {json.dumps(skipped)}")
    said = standing(tmp_path / "arena.sqlite")
    assert said == {first: ("tie", PERSON), second: (BOTH_BAD, PERSON), third: (third_winner, PERSON)}

    browser.press("u")  # the newest vote, and there we are
    browser.wait_until(f"{READY} && {ASKED} === {json.dumps(third)}")
    assert third not in standing(tmp_path / "arena.sqlite")
    vote(browser, "ArrowLeft")
    assert standing(tmp_path / "arena.sqlite")[third][0] not in (third_winner, "tie")

    for _ in range(3):  # the one that was skipped does not come again today
        browser.press(" ")
        if browser.js(f"{SAVED} && !document.getElementById('nothing').hidden"):
            break
        browser.wait_until(f"({READY}) || ({SAVED} && !document.getElementById('nothing').hidden)")
        if browser.js(READY):
            vote(browser, "2")
    browser.wait_until("!document.getElementById('nothing').hidden || !document.getElementById('next').hidden")
    assert set(standing(tmp_path / "arena.sqlite")) == {f"Task {i}" for i in range(6)} - {skipped}
    url, _ = serve(RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two"))  # but tomorrow
    browser.open(url)
    browser.wait_until(READY)
    assert browser.js(ASKED) == skipped


def test_sides_are_drawn_and_order_does_not_follow_the_rows(a_run, serve):
    one, two = a_run("one", n=60), a_run("two", said=lambda i: f"t says {i}", n=60)
    _, there = serve(one, two)
    seen = []
    for _ in range(60):
        battle = there.next({})
        seen.append((battle["instruction"], battle["answers"][0][0]))
        assert there.next({})["battle"] == battle["battle"]  # a reload shows the same one
        there.vote({"battle": battle["battle"], "winner": "tie"})
    assert sorted(instruction for instruction, _ in seen) == sorted(f"Task {i}" for i in range(60))
    assert [instruction for instruction, _ in seen] != [f"Task {i}" for i in range(60)]
    assert 15 <= sum(side == "o" for _, side in seen) <= 45  # 4 standard deviations
    assert there.next({})["battle"] is None


def test_rows_where_both_say_the_same_are_ties_that_nobody_is_asked_about(a_run, serve, tmp_path):
    one, two = (
        a_run("one", said=lambda i: f"alike {i}"),
        a_run("two", said=lambda i: f"alike {i}" if i % 2 else "other"),
    )
    _, there = serve(one, two)
    while (battle := there.next({}))["battle"]:
        assert battle["answers"][0] != battle["answers"][1]
        progress = there.vote({"battle": battle["battle"], "winner": "model_a"})["progress"]
    found = standing(tmp_path / "arena.sqlite")
    assert {task for task, (winner, judge) in found.items() if judge == SAME} == {"Task 1", "Task 3", "Task 5"}
    assert progress["votes"] == 3
    assert there._progress() == {"rows": 6, "done": 6, "same": 3, "votes": 3}
    assert there.undo({})["battle"]  # takes back what the person said, never those
    assert [judge for _, judge in standing(tmp_path / "arena.sqlite").values()].count(SAME) == 3


def test_votes_on_answers_that_are_no_longer_given_are_counted(a_run, serve):
    one, two = a_run("one"), a_run("two", said=lambda i: f"t says {i}")
    _, there = serve(one, two)
    for _ in range(4):
        there.vote({"battle": there.next({})["battle"], "winner": "tie"})
    assert there.outdated() == 0
    rows = [{"instruction": f"Task {i}", "input": "", "response": "trained again"} for i in range(6)]
    write_jsonl(two.responses, rows)
    _, there = serve(one, two)
    assert there.outdated() == 4
    assert there._progress()["done"] == 0  # these are new battles


def test_pairs_of_three_models_get_equally_many_battles(a_run, serve, tmp_path):
    _, there = serve(*(a_run(name, said=lambda i, name=name: f"{name} {i}") for name in ("one", "two", "three")))
    for _ in range(9):
        there.vote({"battle": there.next({})["battle"], "winner": "tie"})
    with Votes(tmp_path / "arena.sqlite", read_only=True) as votes:
        pairs = [frozenset((b.model_a, b.model_b)) for b in votes.battles()[0]]
    assert sorted(pairs.count(pair) for pair in set(pairs)) == [3, 3, 3]


# -- a server that is killed -----------------------------------------------------------------------------------------


def start(*runs, port=0):
    words = [*(str(run.path) for run in runs), "--port", str(port), "--no-browser"]
    command = [sys.executable, "-m", "ift.cli", "arena", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    lines = [process.stdout.readline() for _ in range(3)]
    return process, lines, lines[2].split()[1]


def test_votes_cast_in_the_browser_survive_kill_9(browser, a_run, tmp_path):
    runs = a_run("one", n=30), a_run("two", said=lambda i: f"t says {i}", n=30)
    process, lines, url = start(*runs)
    try:
        assert lines[0] == "arena     2 models, 30 battles from their answers, 0 votes so far\n"
        assert str(tmp_path / "arena.sqlite") in lines[1]
        browser.open(url)
        said = {}
        for i in range(12):
            vote(browser, "1")
            said[browser.js(ASKED)] = browser.js(NAMES)[0]
            if i < 11:
                browser.press(" ")
        browser.press(" ")
        browser.wait_until(READY)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
        assert {task: winner for task, (winner, _) in standing(tmp_path / "arena.sqlite").items()} == said

        browser.press("2")  # nobody is there to hear it
        browser.wait_until("document.getElementById('saved').textContent.startsWith('NOT SAVED, trying again')")
        port = int(url.split(":")[2].split("/")[0])
        process, lines, again = start(*runs, port=port)
        assert again == url  # the page that was left open goes on
        assert "12 votes so far" in lines[0]
        browser.wait_until(TOLD)
        said[browser.js(ASKED)] = browser.js(NAMES)[1]
        browser.open(again)
        browser.wait_until(READY)
        assert browser.js(PROGRESS) == "13 votes · 17 of 30 left"
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait(20)
    assert {task: winner for task, (winner, _) in standing(tmp_path / "arena.sqlite").items()} == said
    assert len(said) == 13


# -- answers at once -------------------------------------------------------------------------------------------------


def test_what_is_typed_in_is_answered_by_two_models_at_once(browser, serve, tmp_path, settings_of):
    runs = [make_run(tmp_path / name, settings_of, seed=seed) for name, seed in (("secret-a", 1), ("secret-b", 2))]
    url, there = serve(*runs)
    browser.open(url)
    browser.wait_until(READY)
    browser.press("i")
    browser.write("Name a colour <b>now</b>.")
    click(browser, "#go")
    browser.wait_until(f"{READY} && document.getElementById('source').textContent === 'typed in'", seconds=60)
    assert browser.js(ASKED) == "Name a colour <b>now</b>."
    said = browser.js(SAID)
    assert "secret" not in browser.js("document.documentElement.outerHTML")
    vote(browser, "2")
    names = browser.js(NAMES)
    assert sorted(names) == ["secret-a", "secret-b"]
    assert standing(tmp_path / "arena.sqlite")["Name a colour <b>now</b>."] == (names[1], PERSON)
    # what stands there is what that model says
    answers = {name: there.models.answer(there.contenders[name], "Name a colour <b>now</b>.", "") for name in names}
    assert [text if text != "(empty)" else "" for text in said] == [answers[name] for name in names]
    assert answers["secret-a"] != answers["secret-b"]
    browser.press(" ")
    assert browser.js("document.activeElement.id") == "instruction"
    assert browser.complaints == []


def test_a_model_that_cannot_answer_says_why_and_not_its_name(serve, tmp_path, settings_of):
    runs = [make_run(tmp_path / name, settings_of, context_length=64) for name in ("secret-a", "secret-b")]
    _, there = serve(*runs)

    def answer(instruction):
        job = there.ask({"instruction": instruction})
        while "doing" in (said := there.answered(job)):
            time.sleep(0.01)
        return said

    assert answer("long " * 400)["problem"] == "this is too long for one of the models"
    (runs[0].model / "model.safetensors").write_bytes(b"broken")
    there.models.loaded.clear()
    problem = answer("short")["problem"]
    assert "secret" not in problem
    assert "MODEL" in problem
    with pytest.raises(Refused, match="no instruction"):
        there.ask({"instruction": "  "})
    assert there.answered({"job": "unknown"}) == {"problem": "the server was started again: ask once more"}


def test_at_most_two_models_are_kept_in_memory(tmp_path, settings_of):
    runs = [make_run(tmp_path / name, settings_of, seed=i) for i, name in enumerate("abc")]
    models = Models(evaluate_settings(["eval.generate.max_new_tokens=2"]))
    for name, run in zip("abca", [*runs, runs[0]], strict=True):
        models.answer(Contender(name, run, [], True), "Say it.", "")
    assert list(models.loaded) == ["c", "a"]


# -- who may talk to it, and text that stays text ----------------------------------------------------------------------


def post(url, path, value, **headers):
    host, _, token = url.removeprefix("http://").partition("/?token=")
    connection = http.client.HTTPConnection(host, timeout=10)
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    given = {"Origin": f"http://{host}", "Content-Type": "application/json", "X-Token": token, **headers}
    connection.request("POST", path, body, {k: v for k, v in given.items() if v is not None})
    response = connection.getresponse()
    return response.status, response.read()


@pytest.mark.parametrize(
    ("path", "value", "headers", "status"),
    [
        ("/vote", "VOTE", {}, 200),
        ("/vote", "VOTE", {"X-Token": None}, 403),
        ("/vote", "VOTE", {"X-Token": "guess"}, 403),
        ("/vote", "VOTE", {"Origin": "http://evil.example"}, 403),
        ("/vote", "VOTE", {"Origin": None}, 403),
        ("/vote", "VOTE", {"Host": "evil.example"}, 421),
        ("/vote", "VOTE", {"Content-Type": "text/plain"}, 415),
        ("/vote", {"battle": "unknown", "winner": "tie"}, {}, 400),
        ("/vote", {"battle": "BATTLE", "winner": "draw"}, {}, 400),
        ("/vote", {"battle": "BATTLE", "winner": ["tie"]}, {}, 400),
        ("/vote", {"battle": {"$ne": 1}, "winner": "tie"}, {}, 400),
        ("/vote", {"battle": "' OR 1=1 --", "winner": "tie"}, {}, 400),
        ("/vote", [], {}, 400),
        ("/vote", None, {}, 400),
        ("/vote", b"[" * 60_000, {}, 400),
        ("/ask", {"instruction": "x" * 20_001}, {}, 400),
        ("/ask", {"instruction": "hello"}, {}, 400),  # these are answers alone: there is no model to ask
        ("/export", {}, {}, 404),
    ],
)
def test_only_its_own_page_may_vote(a_run, serve, tmp_path, path, value, headers, status):
    url, there = serve(a_run("one"), a_run("two", said=lambda i: f"t {i}"))
    battle = there.next({})["battle"]
    if value == "VOTE":
        value = {"battle": battle, "winner": "tie"}
    elif isinstance(value, dict) and value.get("battle") == "BATTLE":
        value = {**value, "battle": battle}
    assert post(url, path, value, **headers)[0] == status
    assert len(standing(tmp_path / "arena.sqlite")) == (status == 200)


def test_the_page_is_given_to_who_knows_the_whole_address_alone(a_run, serve):
    url, _ = serve(a_run("one"), a_run("two"))
    host, _, token = url.removeprefix("http://").partition("/?token=")
    assert len(token) >= 32
    for query, status in ((f"?token={token}", 200), ("", 403), ("?token=", 403), (f"?token={token}x", 403)):
        connection = http.client.HTTPConnection(host, timeout=10)
        connection.request("GET", f"/{query}")
        response = connection.getresponse()
        assert response.status == status
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
        assert (b"Which answer" in response.read()) == (status == 200)


def test_hostile_answers_and_names_stay_text_and_nothing_is_asked_for_elsewhere(browser, serve, tmp_path):
    runs = []
    for turn, name in enumerate(("<img src=x onerror=hacked=1>", 'b" onfocus="hacked=1')):
        run = RunFolder(tmp_path / name)
        run.path.mkdir()
        rows = [
            {"instruction": text, "input": text, "response": HOSTILE[i - 1 - turn]} for i, text in enumerate(HOSTILE)
        ]
        write_jsonl(run.responses, rows)
        runs.append(run)
    url, there = serve(*runs)
    there.rows = len(HOSTILE)
    browser.open(url)
    seen = ""
    for i in range(len(HOSTILE)):
        vote(browser, "1" if i % 2 else "4")
        seen += browser.js("document.getElementById('battle').textContent")
        browser.press(" ")
    browser.wait_until("!document.getElementById('nothing').hidden")
    browser.press("l")
    browser.wait_until("document.querySelectorAll('#standings tr').length === 3")
    seen += browser.js("document.getElementById('board').textContent")
    assert all(text in seen for text in HOSTILE if text.isprintable())
    assert all(run.path.name in seen for run in runs)
    assert "⟨U+001B⟩[31mred" in seen
    assert "⟨U+202E⟩gnp.exe" in seen
    assert browser.js("typeof window.hacked") == "undefined"
    assert browser.complaints == []
    assert {r.split("?")[0] for r in browser.requests} == {
        url.split("?")[0] + path for path in ("", "next", "vote", "standings")
    }
    foreign = "iframe,object,embed,link,base,video,audio,template,math,img"
    assert browser.js(f"document.querySelectorAll('{foreign}').length") == 0
    handlers = "[...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()).filter(n => n.startsWith('on'))"
    assert browser.js(handlers) == []


# -- the leaderboard -------------------------------------------------------------------------------------------------


def test_the_leaderboard_is_shown_when_asked_for_with_intervals_and_win_rates(browser, a_run, serve):
    url, there = serve(a_run("one", n=40), a_run("two", said=lambda i: f"t says {i}", n=40))
    browser.open(url)
    browser.wait_until(READY)
    browser.press("l")
    browser.wait_until("document.getElementById('board-text').textContent === 'no battles so far'")
    browser.press("l")
    for i in range(40):  # one wins 30 and loses 10
        battle = there.next({})
        side = "model_a" if battle["answers"][0].startswith("o") == (i % 4 > 0) else "model_b"
        there.vote({"battle": battle["battle"], "winner": side})
    click(browser, "#tab-board")
    browser.wait_until("document.querySelectorAll('#standings tr').length === 3")
    rows = browser.js("[...document.querySelectorAll('#standings tr')].map(r => [...r.cells].map(c => c.textContent))")
    assert [row[1] for row in rows[1:]] == ["one", "two"]
    assert [row[2].split()[0] for row in rows[1:]] == ["1095", "905"]  # 400 log10(3) = 190.8 apart
    assert all(re.fullmatch(r"\d+ \d+ to \d+", row[2]) for row in rows[1:])
    assert [row[4].strip() for row in rows[1:]] == ["75 % 59 % to 87 %", "25 % 13 % to 41 %"]  # Clopper and Pearson
    cells = browser.js("[...document.querySelectorAll('#matrix .cell')].map(c => c.textContent)")
    assert cells == ["", "75 %", "25 %", ""]
    assert browser.js("document.querySelectorAll('#standings svg circle').length") == 2
    assert browser.js("document.getElementById('board-text').textContent") == "40 battles: 40 votes of people"
    assert browser.js("getComputedStyle(document.querySelector('footer')).display") == "none"
    assert browser.complaints == []


BACKGROUNDS = "[...document.querySelectorAll('#matrix .cell')].map(c => [c.textContent, c.className])"


def test_a_half_and_a_tie_are_neutral_and_an_open_end_is_said(browser, a_run, serve):
    url, _ = serve(a_run("one", n=4), a_run("two", said=lambda i: f"t says {i}", n=4))
    browser.open(url)
    browser.wait_until(READY)
    vote(browser, "3")
    colour = "getComputedStyle(document.querySelector('[data-winner=\"tie\"]')).color"
    assert browser.js(colour) == browser.js("getComputedStyle(document.body).color")
    standing = {"model": "one", "rank": None, "rating": 1000, "low": 950.4, "high": None, "elo": 1000}
    shown = {
        "battles": "1 battles: 1 vote of people",
        "leaderboard": [
            {**standing, "battles": 1, "win_rate": 0.5},
            {**standing, "model": "two", "low": None, "battles": 1, "win_rate": 0.5},
        ],
        "win_rates": [[None, 0.5], [0.5, None]],
        "notes": ["Nothing is settled."],
        "ours": ["one", "two"],
    }
    browser.js(f"board({json.dumps(shown)})")
    rows = browser.js("[...document.querySelectorAll('#standings tr')].map(r => [...r.cells].map(c => c.textContent))")
    assert [row[2] for row in rows[1:]] == ["1000 above 950", "1000 not known yet"]
    assert [row[0] for row in rows[1:]] == ["–", "–"]
    assert browser.js(BACKGROUNDS) == [["", "n cell"], ["50 %", "n cell"], ["50 %", "n cell"], ["", "n cell"]]
    assert browser.complaints == []


def test_on_a_phone_rating_interval_and_win_rate_stand_in_view(browser, a_run, serve):
    url, there = serve(a_run("one", n=8), a_run("two-with-a-long-name-v1.2.3", said=lambda i: f"t says {i}", n=8))
    for _ in range(8):
        there.vote({"battle": there.next({})["battle"], "winner": "model_a"})
    browser.do("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    try:
        browser.open(url)
        browser.wait_until("document.getElementById('nothing').hidden === false")
        browser.press("l")
        browser.wait_until("document.querySelectorAll('#standings tr').length === 3")
        right = (
            "[...document.querySelectorAll('#standings td, #standings th')].map(c => c.getBoundingClientRect().right)"
        )
        assert max(browser.js(right)) <= 390
        assert browser.js("document.documentElement.scrollWidth") <= 390
    finally:
        browser.do("Emulation.clearDeviceMetricsOverride")


def ift(*words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "ift.cli", "arena", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_the_command_prints_the_leaderboard_and_exports_what_it_can_read_again(a_run, serve, tmp_path):
    one, two = a_run("one", n=12), a_run("two", said=lambda i: f"t says {i}", n=12)
    _, there = serve(one, two)
    for i in range(12):
        battle = there.next({})
        side = "model_a" if battle["answers"][0].startswith("o") == (i % 4 > 0) else "model_b"
        there.vote({"battle": battle["battle"], "winner": side})
    out = tmp_path / "battles.jsonl"
    done = ift(one.path, two.path, "--leaderboard", "--export", out)
    assert done.returncode == 0, done.stderr
    assert f"look at   {out}: 12 battles" in done.stdout
    assert "battles   12: 12 votes of people" in done.stdout
    assert "   –  one      1095  985 to 1197" in done.stdout  # 9 of 12 votes do not tell the two apart
    assert len(read_votes(out).battles) == 12
    again = ift("--leaderboard", "--battles", out)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[2:] == done.stdout.splitlines()[3:]


def test_what_does_not_fit_the_command_is_one_line(a_run, tmp_path):
    one, two = a_run("one"), a_run("two")
    other = RunFolder(tmp_path / "other")
    other.path.mkdir()
    write_jsonl(other.responses, [{"instruction": "something else", "response": "x"}])
    (tmp_path / "text.sqlite").write_text("not a database")
    usual = {"votes": None, "battles": None, "only_leaderboard": False, "export": None, "port": 0, "browser": False}
    for places, change, error, message in (
        ([], {}, ConfigError, "no run given"),
        ([one.path], {}, ConfigError, "give two runs or more"),
        ([one.path, one.path], {}, ConfigError, "the same model twice"),
        ([one.path, tmp_path / "nowhere"], {}, ConfigError, "no such run folder"),
        ([one.path, other.path], {}, DataError, "no row in common"),
        ([one.path, two.path], {"only_leaderboard": True}, ConfigError, "vote first: ift arena RUN RUN"),
        ([one.path, two.path], {"votes": tmp_path / "text.sqlite"}, DataError, "no database of votes"),
        ([one.path, two.path], {"battles": tmp_path / "none.json"}, ConfigError, "no such file of votes"),
    ):
        with pytest.raises(error, match=message):
            arena([str(place) for place in places], **{**usual, **change}, settings=evaluate_settings([]))


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    for day in ("monday", "tuesday"):
        run = RunFolder(tmp_path / day / "10-15-00")
        run.path.mkdir(parents=True)
        write_jsonl(run.responses, [{"instruction": "x", "response": day}])
    found = open_contenders([str(tmp_path / day / "10-15-00") for day in ("monday", "tuesday")])
    assert [contender.name for contender in found] == ["monday/10-15-00", "tuesday/10-15-00"]


def test_settings_of_answers_are_those_of_evaluate():
    settings = evaluate_settings(["eval.generate.temperature=0.7", "precision=fp32"])
    assert (settings.eval.generate.temperature, settings.precision) == (0.7, "fp32")
    assert settings.eval.generate == replace(evaluate_settings([]).eval.generate, temperature=0.7)
    with pytest.raises(ConfigError, match=r"did you mean eval\.generate\.temperature"):
        evaluate_settings(["eval.generate.temprature=1"])
