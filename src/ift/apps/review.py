"""`ift review RUN`: a page on this machine where a person rates answers, with the keyboard, one after the other.

A small server on the loopback address. What a page elsewhere could do to it, a browser of today would let it try:
so each request must name this address as its host, and each change must come from a page of this server.
"""

from __future__ import annotations

import json
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ift.errors import ConfigError, MachineError, one_line
from ift.evaluation.answers import Answer, Answers, content_key, open_answers
from ift.evaluation.judge import judgements
from ift.evaluation.overlap import word_diff
from ift.evaluation.pages import Page
from ift.evaluation.ratings import VERDICTS, Rating, Ratings, read_csv, write_csv

LONGEST_BODY = 65_536  # bytes of a request
PAGE = Page("review", Path(__file__).parent, talks=True)


@dataclass
class Item:
    """An answer to rate. In a blind review one that several runs gave alike is rated once, for all of them."""

    answer: Answer
    runs: list[int] = field(default_factory=list)


class Review:
    """The answers of one run in their order, or of several mixed by their content; and where the ratings go."""

    def __init__(self, runs: Sequence[Answers], *, blind: bool):
        self.runs, self.blind = runs, blind
        found: dict[str, Item] = {}
        for i, run in enumerate(runs):
            for answer in run.rows:
                item = found.setdefault(answer.key, Item(answer))
                if i not in item.runs:
                    item.runs.append(i)
        # the order must not change when the review goes on tomorrow, nor follow the runs
        self.items = (
            sorted(found.values(), key=lambda i: content_key("mix", i.answer.key)) if blind else [*found.values()]
        )
        self.by_key = found
        self.ratings = [Ratings(run.run.ratings) for run in runs]

    def rating(self, item: Item) -> Rating:
        return self.ratings[item.runs[0]].now.get(item.answer.key, Rating())

    def rate(self, value: Any) -> dict[str, Any]:
        """Raises ValueError for what is no rating of an answer that is here."""
        if not isinstance(value, dict) or not isinstance(value.get("key"), str) or value["key"] not in self.by_key:
            raise ValueError("no such answer")
        item = self.by_key[value["key"]]
        try:
            rating = Rating.checked(value)
        except TypeError as error:
            raise ValueError("not a rating") from error
        for run in item.runs:
            self.ratings[run].set(item.answer.key, rating)
        return {"key": item.answer.key, **asdict(rating)}

    def undo(self) -> dict[str, Any]:
        """Take back the newest rating of all; the answer and what holds of it now, or {} where there is none."""
        newest = max((r for r in self.ratings if r.steps), key=lambda r: r.steps[-1][2], default=None)
        if newest is None:
            return {}
        key = newest.steps[-1][0]
        for ratings in self.ratings:
            if ratings.steps and ratings.steps[-1][0] == key:
                ratings.undo()
        item = self.by_key.get(key)  # None: of an answer that was replaced since
        return {"key": key, **asdict(self.rating(item) if item else Rating())}

    def page(self) -> str:
        judged = [] if self.blind else [*judgements(self.runs[0].run).values()]
        items = []
        for item in self.items:
            reference, response = word_diff(item.answer.reference, item.answer.response)
            scores = [(judge.name, judge.scores.get(item.answer.key)) for judge in judged]
            items.append(
                {
                    "answer": item.answer,
                    "rating": self.rating(item),
                    "reference": reference,
                    "response": response if item.answer.reference else [(True, item.answer.response)],
                    "judged": [(name, score) for name, score in scores if score is not None],
                }
            )
        title = "Blind review" if self.blind else f"Review of {self.runs[0].name}"
        return PAGE.render(title=title, items=items, verdicts=list(VERDICTS))


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, review: Review, port: int):
        """Raises MachineError where the port is taken."""
        self.review = review
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as error:
            raise MachineError(f"port {port}: {one_line(str(error), 80)} (--port 0 takes any free one)") from error
        self.port = self.server_address[1]
        self.hosts = {f"{name}:{self.port}" for name in ("127.0.0.1", "localhost")}
        self.policy = f"{PAGE.policy}; frame-ancestors 'none'"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 10  # seconds for a request to arrive
    server_version, sys_version = "ift", ""

    def do_GET(self) -> None:
        if self._refused():
            return
        if self.path == "/":
            self._answer(200, self.server.review.page().encode(), "text/html; charset=utf-8")
        elif self.path == "/favicon.ico":
            self._answer(204, b"", "image/x-icon")
        else:
            self._answer(404, b"no such page\n")

    def do_POST(self) -> None:
        if self._refused() or self._refused_change():
            return
        length = int(self.headers["Content-Length"])
        try:
            value = json.loads(self.rfile.read(length))
            if self.path == "/rate":
                said = self.server.review.rate(value)
            elif self.path == "/undo":
                said = self.server.review.undo()
            else:
                self._answer(404, b"no such page\n")
                return
        except OSError as error:  # the disk, not the person
            self._answer(507, f"not saved: {error.strerror or error}\n".encode())
        except (ValueError, RecursionError) as error:
            self._answer(400, f"{one_line(str(error), 100)}\n".encode())
        else:
            self._answer(200, json.dumps(said).encode(), "application/json")

    def _refused(self) -> bool:
        """A name that someone else's DNS points here is not this machine's."""
        if self.headers.get("Host") in self.server.hosts and len(self.headers.get_all("Host", [])) == 1:
            return False
        self._answer(421, b"this server answers to its own address alone\n")
        return True

    def _refused_change(self) -> bool:
        """Only a page of this server may change anything, and only in a form that no plain link or form has."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            self._answer(403, b"not from a page of this server\n")
        elif self.headers.get("Content-Type") != "application/json":
            self._answer(415, b"JSON only\n")
        elif not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            self._answer(411, b"how long is it?\n")
        elif len(length) > 9 or int(length) > LONGEST_BODY:
            self._answer(413, b"too long\n")
        else:
            return False
        return True

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": self.server.policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            "Connection": "close",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Requests are no news; what they hold may come from a model."""


def review(
    places: Sequence[str], *, blind: bool, export: Path | None, take: Path | None, port: int, browser: bool
) -> None:
    """Serve the page until Ctrl-C; or write ratings to a CSV, or take them from one.

    Raises ConfigError, DataError and MachineError.
    """
    if blind and len(places) < 2:
        raise ConfigError("ift review --blind: one run given (give two or more, else there is nothing to hide)")
    if not blind and len(places) > 1:
        raise ConfigError(f"ift review: {len(places)} runs given (--blind mixes them; else give one)")
    if (export or take) and blind:
        raise ConfigError("ift review --blind: no CSV of several runs (leave --blind out, one run at a time)")
    runs = [open_answers(place) for place in places]
    if export or take:
        exchange(runs[0], export=export, take=take)
        return
    there = Review(runs, blind=blind)
    with Server(there, port) as server:
        url = f"http://127.0.0.1:{server.port}/"
        rated = sum(bool(there.rating(item)) for item in there.items)
        print(f"review    {len(there.items):,} answers, {rated:,} of them rated; ratings are saved as you give them")
        print(f"open      {url}  (Ctrl-C ends)", flush=True)
        if browser:
            webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            rated = sum(bool(there.rating(item)) for item in there.items)
            print(f"\nrated     {rated:,} of {len(there.items):,}")


def exchange(run: Answers, *, export: Path | None, take: Path | None) -> None:
    """Ratings to and from a CSV. Nothing of a file is taken if a line of it is wrong."""
    if take:
        given, ratings = read_csv(take, run.rows), Ratings(run.run.ratings)
        for key, rating in given.items():
            ratings.set(key, rating)
        ratings.close()
        print(f"rated     {len(given):,} answers of {run.name} by {take}")
    if export:
        rated = write_csv(export, run.rows, Ratings(run.run.ratings, read_only=True).now)
        print(f"look at   {export}: {len(run.rows):,} answers, {rated:,} of them rated")
