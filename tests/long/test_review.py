"""A review at real size: 52,000 answers in a real browser; two people, 1,000 ratings each, while it is killed."""

import json
import os
import random
import time

import pytest

from ift.run import RunFolder, write_jsonl
from tests.reviewers import Server, two_reviewers

ANSWERS = 52_000
WORDS = "the a model answer question of in and to is was that water light energy system people history number".split()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """52,000 answers of 120 words, one word in five of them another than in the reference."""
    folder = RunFolder(tmp_path_factory.mktemp("large") / "run")
    folder.path.mkdir()
    chance = random.Random(0)

    def row(i):
        reference = chance.choices(WORDS, k=120)
        response = [word if chance.random() < 0.8 else chance.choice(WORDS) for word in reference]
        texts = {"instruction": f"Task {i}", "reference": " ".join(reference), "response": " ".join(response)}
        return texts | {"category": f"category {i % 12}", "stop_reason": "end"}

    write_jsonl(folder.responses, (row(i) for i in range(ANSWERS)))
    return folder


def seconds_of(pid):
    """Of processor that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def peak_megabytes(pid):
    with open(f"/proc/{pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def seen(browser, number):
    browser.wait_until(f"drawn !== null && drawn === card() && current === {number}")


def test_52_000_answers_are_usable(browser, large):
    server = Server(large.path)
    try:
        pid = server.process.pid
        started, before = time.monotonic(), seconds_of(pid)
        browser.open(f"http://127.0.0.1:{server.port}/?token={server.token}&rater=anna")
        seen(browser, 0)
        wall, work = time.monotonic() - started, seconds_of(pid) - before
        browser.do("Performance.enable")
        took = {"first view, s": wall, "of the server's work, s": work}

        def timed(name, action, wanted):
            began = time.monotonic()
            action()
            browser.wait_until(wanted)
            took[name] = time.monotonic() - began

        def choose(field, value):
            browser.js(
                f"(() => {{ const e = document.getElementById('{field}'); e.value = {json.dumps(value)};"
                "e.dispatchEvent(new Event('input')); })()"
            )

        is_found = "document.getElementById('found').textContent === '{}' && drawn === card()"
        timed("search, s", lambda: choose("search", "task 51999"), is_found.format("1 found"))
        assert browser.js("current") == ANSWERS - 1
        choose("search", "")
        timed("category, s", lambda: choose("category", "5"), is_found.format("4,334 found"))  # "category 3"
        choose("category", "")
        browser.wait_until("shown === null")
        timed("jump, s", lambda: browser.js("goTo(31999)"), "current === 31999 && drawn === card()")
        timed("a verdict, s", lambda: browser.press("r"), "document.getElementById('saved').textContent === 'saved'")
        timed("next unrated, s", lambda: browser.press("n"), "current === 32001 && drawn === card()")
        took["server's memory, MB"] = peak_megabytes(pid)
        print(json.dumps({name: round(value, 2) for name, value in took.items()}))
        assert wall < 1.0
        assert work < 1.0
        assert max(took[name] for name in took if name.endswith(", s")) < 2.0
        assert took["server's memory, MB"] < 500
        assert browser.complaints == []
    finally:
        server.kill()


def test_a_thousand_ratings_of_two_people_while_the_server_is_killed_twice(tmp_path):
    assert two_reviewers(tmp_path, answers=1000, ratings=1000, kills=2) == {"anna": 1000, "ben": 1000}


def test_two_servers_on_one_run_are_killed_in_turn(tmp_path):
    ratings = two_reviewers(tmp_path, answers=300, ratings=300, kills=6, servers=2)
    assert ratings == {"anna": 300, "ben": 300}


def test_the_command_starts_in_seconds(large):
    began = time.monotonic()
    server = Server(large.path)
    took = time.monotonic() - began
    server.kill()
    print(f"started in {took:.1f} s")
    assert took < 15
