"""`ift review RUN`: a page on this machine where a person rates answers, with the keyboard, one after the other.

The server is that of `local_page.py`; what is rated is on disk before the page hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ift.apps.local_page import PageServer, Refused
from ift.errors import ConfigError, warn
from ift.evaluation.answers import Answer, Answers, content_key, open_answers
from ift.evaluation.overlap import word_diff
from ift.evaluation.people import VERDICTS, Rating, Ratings, read_csv, write_csv
from ift.evaluation.results import read_judgements
from ift.pages.page import Page

PAGE = Page("review", Path(__file__).parent, served=True)


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
        self.policy = PAGE.policy
        self.posts: Mapping[str, Callable[[Any], dict[str, Any]]] = {"/rate": self.rate, "/undo": self.undo}

    def rating(self, item: Item) -> Rating:
        return self.ratings[item.runs[0]].rating("", item.answer.key)

    def rate(self, value: Any) -> dict[str, Any]:
        """Raises Refused for what is no rating of an answer that is here."""
        if not isinstance(value, dict) or not isinstance(value.get("key"), str) or value["key"] not in self.by_key:
            raise Refused("no such answer")
        item = self.by_key[value["key"]]
        try:
            rating = Rating.checked(value)
        except TypeError as error:
            raise Refused("not a rating") from error
        except ValueError as error:
            raise Refused(str(error)) from error
        for run in item.runs:
            self.ratings[run].set(item.answer.key, rating)
        return {"key": item.answer.key, **asdict(rating)}

    def undo(self, value: Any = None) -> dict[str, Any]:
        """Take back the newest rating of all; the answer and its rating now, or {} where there is none."""
        steps = [next(reversed(ratings.steps.values())) for ratings in self.ratings if ratings.steps]
        if not steps:
            return {}
        key = max(steps, key=lambda step: step.unix_time).key
        for ratings in self.ratings:
            last = next(reversed(ratings.steps.values()), None)
            if last and last.key == key:
                ratings.undo(last.rater, last.id)
        item = self.by_key.get(key)  # None: of an answer that was replaced since
        return {"key": key, **asdict(self.rating(item) if item else Rating())}

    def page(self) -> str:
        judgements, problems = ({}, []) if self.blind else read_judgements(self.runs[0].run)
        for problem in problems:
            warn(problem)
        judged = [*judgements.values()]
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
    with PageServer(there, port) as server:
        rated = sum(bool(there.rating(item)) for item in there.items)
        print(f"review    {len(there.items):,} answers, {rated:,} of them rated; ratings are saved as you give them")
        server.serve(browser=browser)
        rated = sum(bool(there.rating(item)) for item in there.items)
        print(f"rated     {rated:,} of {len(there.items):,}")


def exchange(run: Answers, *, export: Path | None, take: Path | None) -> None:
    """Ratings to and from a CSV. Nothing of a file is taken if a line of it is wrong."""
    if take:
        given, ratings = read_csv(take, run.rows), Ratings(run.run.ratings)
        for rater, rated_by in given.items():
            ratings.set_all(rated_by, rater)
        rated = len({key for rated_by in given.values() for key in rated_by})
        print(f"rated     {rated:,} answers of {run.name} by {take}")
    if export:
        rated = write_csv(export, run.rows, Ratings(run.run.ratings, read_only=True).raters)
        print(f"look at   {export}: {len(run.rows):,} answers, {rated:,} of them rated")
