"""Two people who rate the answers of one run at once while its server is killed, as their pages would: a request that
got no reply is sent again. Used by the tests of the review, short and long.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ift.evaluation.answers import open_answers
from ift.evaluation.people import Rating, Ratings
from ift.run import RunFolder, write_jsonl
from tests.running import ROOT

VERDICTS = ("right", "partly", "wrong")


def write_answers(folder: RunFolder, n: int) -> None:
    folder.path.mkdir(exist_ok=True)
    rows = ({"instruction": f"Task {i}", "reference": f"It is {i}.", "response": f"It was {i}."} for i in range(n))
    write_jsonl(folder.responses, rows)


class Server:
    """`ift review` in a process of its own, always on one port."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "ift.cli", "review", str(self.folder), f"--port={self.port}", "--no-browser"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout
        self.process.stdout.readline()
        url = urlsplit(self.process.stdout.readline().split()[1])
        self.port, self.token = url.port, parse_qs(url.query)["token"][0]

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=20)

    def post(self, path: str, value: object) -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port or 1, timeout=20)
        headers = {"Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(value), headers | {"X-Token": self.token})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        return json.loads(response.read())


class Reviewer(threading.Thread):
    """Rates every answer once, in an order of their own; takes one rating in ten back and gives it again."""

    def __init__(self, server: Server, rater: str, keys: list[str]):
        super().__init__(daemon=True)
        self.server, self.rater, self.done = server, rater, 0
        self.chance = random.Random(rater)
        self.keys = self.chance.sample(keys, len(keys))
        self.given: dict[str, Rating] = {}
        self.error: BaseException | None = None

    def deliver(self, path: str, value: dict[str, object]) -> dict[str, object]:
        while True:
            try:
                return self.server.post(path, {"rater": self.rater, "seen": [0], **value})
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)

    def run(self) -> None:
        try:
            for number, key in enumerate(self.keys):
                verdict, stars = self.chance.choice(VERDICTS), self.chance.randint(1, 5)
                for again in range(2 if number % 10 == 0 else 1):
                    id = f"{self.rater} {number} {again}"
                    change = {"verdict": [None, verdict], "stars": [None, stars]}
                    assert self.deliver("/rate", {"key": key, "id": id, "change": change})["taken"]
                    if number % 10 == 0 and not again:
                        assert self.deliver("/undo", {"key": key, "id": id})["taken"]
                self.given[key] = Rating(verdict, stars)
                self.done += 1
        except BaseException as error:  # told by whoever waits
            self.error = error


def two_reviewers(folder: Path, *, answers: int, ratings: int, kills: int, servers: int = 1) -> dict[str, int]:
    """Let two people rate so many answers each; how many ratings each has at the end, after every one was checked.

    servers: two, one for each of them, on the same run; they are killed in turn.
    """
    run = RunFolder(folder / "run")
    write_answers(run, answers)
    keys = [answer.key for answer in open_answers(run.path).rows][:ratings]
    there = [Server(run.path) for _ in range(servers)]
    reviewers = [Reviewer(there[i % servers], rater, keys) for i, rater in enumerate(("anna", "ben"))]
    try:
        for reviewer in reviewers:
            reviewer.start()
        for kill in range(kills):
            wanted = 2 * ratings * (kill + 1) // (kills + 1)
            while sum(reviewer.done for reviewer in reviewers) < wanted and not any(r.error for r in reviewers):
                time.sleep(0.005)
            there[kill % servers].kill()
            there[kill % servers].start()
        for reviewer in reviewers:
            reviewer.join()
    finally:
        for server in there:
            server.kill()
    for reviewer in reviewers:
        if reviewer.error:
            raise reviewer.error
    kept = Ratings(run.ratings, read_only=True).raters
    assert kept == {reviewer.rater: reviewer.given for reviewer in reviewers}
    return {rater: len(given) for rater, given in kept.items()}
