"""`ift review RUN`: a page on this machine where people rate answers, with the keyboard, one after the other.

The server is that of `local_page.py`; what is rated is on disk before the page hears of it. The page gets the texts of
the answers that a person looks at, and of each answer one letter that says how it is rated (`kind`), so that a run of
any size opens at once. Each rating says what it changes, and an undo what it takes back: two people, or two tabs of
one, never overwrite what they have not seen.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from ift.apps.local_page import PageServer, Refused, kept_token
from ift.errors import ConfigError, warn
from ift.evaluation.answers import Answer, Answers, content_key, open_answers
from ift.evaluation.overlap import Pieces, same, word_diff
from ift.evaluation.people import (
    UNNAMED,
    VERDICTS,
    Rating,
    Ratings,
    Step,
    checked_rater,
    rater_pairs,
    read_csv,
    write_csv,
)
from ift.evaluation.results import read_judgements
from ift.pages.page import Page, visible

PAGE = Page("review", Path(__file__).parent, served=True)
FIELDS = ("verdict", "stars", "comment")
AT_ONCE = 20  # answers that a page may ask for in one request
UNDONE = 200  # steps that a page that is opened can take back
LONGEST_SEARCH = 1000  # characters
# what can be looked for beside words and a category, apart from the verdicts
STATUSES = {
    "all": "all",
    "unrated": "not rated",
    "comment": "with a comment",
    "wrong-words": "not equal to the reference",
    "differ": "raters differ",
}


@dataclass(slots=True)
class Item:
    """An answer to rate. In a blind review one that several runs gave alike is rated once, for all of them."""

    key: str
    answer: Answer
    runs: tuple[int, ...]


def kind(rating: Rating) -> str:
    """r, p, w for a verdict; s where there are only stars or a comment; . for nothing."""
    return rating.verdict[0] if rating.verdict else "s" if rating else "."


class Review:
    """The answers of one run in their order, or of several mixed by their content; and where the ratings go."""

    def __init__(self, runs: Sequence[Answers], *, blind: bool, rater: str = ""):
        """rater: who rates where the page does not say another name.

        Raises DataError for ratings that cannot be read, MachineError where they cannot be kept.
        """
        self.runs, self.blind, self.rater = runs, blind, rater
        found: dict[str, Item] = {}
        for i, run in enumerate(runs):
            for answer in run.rows:
                key = answer.key
                item = found.get(key)
                if item is None:
                    found[key] = Item(key, answer, (i,))
                elif i not in item.runs:
                    item.runs += (i,)
        # the order must not change when the review goes on tomorrow, nor follow the runs
        self.items = sorted(found.values(), key=lambda i: content_key("mix", i.key)) if blind else [*found.values()]
        self.places = {item.key: place for place, item in enumerate(self.items)}
        self.version = content_key(*self.places)  # of the answers: places mean nothing among others
        self.categories = sorted({item.answer.category for item in self.items} - {""})
        self.ratings = [Ratings(run.run.ratings) for run in runs]
        judgements, problems = ({}, []) if blind else read_judgements(runs[0].run)
        for problem in problems:
            warn(problem)
        self.judged = {name: judged.scores for name, judged in judgements.items()}
        self.policy = PAGE.policy
        self.posts: Mapping[str, Callable[[Any], dict[str, Any]]] = {
            "/open": self.open,
            "/news": self.news,
            "/find": self.find,
            "/items": self.cards,
            "/rate": self.rate,
            "/undo": self.undo,
            "/agreement": self.agreement,
        }

    def page(self) -> str:
        title = "Blind review" if self.blind else f"Review of {self.runs[0].name}"
        return PAGE.render(
            title=title,
            n=len(self.items),
            rater=self.rater,
            unnamed=UNNAMED,
            verdicts=list(VERDICTS),
            statuses=STATUSES,
            categories=self.categories,
            review=content_key(*(str(run.run.path.resolve()) for run in self.runs)),
            version=self.version,
        )

    def rating(self, rater: str, item: Item) -> Rating:
        return self.ratings[item.runs[0]].rating(rater, item.key)

    def rated(self, rater: str) -> int:
        return sum(bool(self.rating(rater, item)) for item in self.items)

    # -- what the page asks for. Values come from anywhere: Refused for what cannot be

    def open(self, value: Any) -> dict[str, Any]:
        """How each answer is rated, and what this rater can take back."""
        rater = self._rater_here(value)
        steps = sorted(self._newest(rater), key=lambda step: step.unix_time)[-UNDONE:]
        return {
            "rater": rater,
            "kinds": "".join(kind(self.rating(rater, item)) for item in self.items),
            "steps": [[self.places[step.key], step.key, step.id] for step in steps],
            "raters": sorted({name for ratings in self.ratings for name in [*ratings.raters] if name}),
            "seen": self._seen(),
        }

    def _newest(self, rater: str) -> Iterator[Step]:
        for run, ratings in enumerate(self.ratings):
            ours = (
                step
                for step in reversed([*ratings.steps.values()])
                if step.rater == rater and step.key in self.places and self.items[self.places[step.key]].runs[0] == run
            )
            yield from islice(ours, UNDONE)

    def news(self, value: Any) -> dict[str, Any]:
        """What has changed since the page last looked, by whatever page or server."""
        self._rater_here(value)
        return self._news(value)

    def _news(self, value: Any) -> dict[str, Any]:
        rater, seen = self._rater(value), value.get("seen")
        if not isinstance(seen, list) or len(seen) != len(self.ratings) or not all(type(n) is int for n in seen):
            raise Refused("seen: not a list of numbers")
        changed: list[list[Any]] = []
        for run, (ratings, n) in enumerate(zip(self.ratings, seen, strict=True)):
            # a file that took the place of another begins anew
            keys = {key for who, key in ratings.changes[n:] if who == rater} if 0 <= n <= len(ratings.changes) else None
            for key in self.places if keys is None else keys:
                item = self.items[place] if (place := self.places.get(key)) is not None else None
                if item and item.runs[0] == run:
                    changed.append([place, asdict(self.rating(rater, item))])
        return {"changed": changed, "seen": self._seen(), "version": self.version}

    def _seen(self) -> list[int]:
        return [len(ratings.changes) for ratings in self.ratings]

    def find(self, value: Any) -> dict[str, Any]:
        """The places of the answers that have all the words, the status and the category."""
        rater, status = self._rater_here(value), value.get("status", "all")
        words, category = _text(value, "words", LONGEST_SEARCH).casefold().split(), value.get("category")
        if status not in STATUSES and status not in VERDICTS:
            raise Refused("no such status")
        if category is not None and not (type(category) is int and 0 <= category < len(self.categories)):
            raise Refused("no such category")
        wanted = None if category is None else self.categories[category]
        shown = [
            place
            for place, item in enumerate(self.items)
            if (wanted is None or item.answer.category == wanted)
            and self._has_status(rater, item, status)
            and (not words or _has_words(item.answer, words))
        ]
        return {"shown": shown}

    def _has_status(self, rater: str, item: Item, status: str) -> bool:
        if status == "all":
            return True
        if status == "differ":
            return len({rating.verdict for _, rating in self._all(item) if rating.verdict}) > 1
        if status == "wrong-words":
            return not same(item.answer.response, item.answer.reference)
        rating = self.rating(rater, item)
        if status == "unrated":
            return not rating
        return bool(rating.comment) if status == "comment" else rating.verdict == status

    def _all(self, item: Item) -> list[tuple[str, Rating]]:
        """Who rated an answer, and what they said."""
        ratings = self.ratings[item.runs[0]]
        return [(rater, rating) for rater in sorted(ratings.raters) if (rating := ratings.rating(rater, item.key))]

    def cards(self, value: Any) -> dict[str, Any]:
        """Texts and ratings of a few answers. others: what other raters said as well, which is not shown unasked."""
        rater, places = self._rater_here(value), value.get("items")
        if not isinstance(places, list) or len(places) > AT_ONCE:
            raise Refused(f"items: not a list of at most {AT_ONCE}")
        return {"items": [self._card(rater, self._place(place), bool(value.get("others"))) for place in places]}

    def _card(self, rater: str, place: int, others: bool) -> dict[str, Any]:
        item = self.items[place]
        a = item.answer
        reference, response = _marked(a.reference, a.response) if a.reference else ([], [(True, visible(a.response))])
        scores = [(name, scores.get(item.key)) for name, scores in self.judged.items()]
        everyone = self._all(item) if others else []
        return {
            "item": place,
            "key": item.key,
            "category": visible(a.category),
            "stopped": "" if a.stop_reason == "end" else visible(a.stop_reason),
            "judged": [f"{name} {score:g}" for name, score in scores if score is not None],
            "instruction": visible(a.instruction),
            "input": visible(a.input),
            "reference": reference,
            "response": response,
            "rating": asdict(self.rating(rater, item)),
            "others": [{"rater": who or UNNAMED, **asdict(said)} for who, said in everyone if who != rater],
        }

    def rate(self, value: Any) -> dict[str, Any]:
        """Change an answer's rating, each field from what the page showed; and what holds then.

        {"key": of the answer, "id": of this change, "change": {"verdict": [null, "right"]}, "rater": ..., "seen": ...}
        """
        rater, item, id = self._rater(value), self._item(value), self._id(value)
        change = value.get("change")
        if not isinstance(change, dict) or not all(
            name in FIELDS and isinstance(pair, list) and len(pair) == 2 for name, pair in change.items()
        ):
            raise Refused("change: not fields of a rating with what they were and what they are to be")
        first, *more = (self.ratings[run] for run in item.runs)
        try:
            taken = first.change(rater, item.key, change, id=id)
        except ValueError as error:
            raise Refused(str(error)) from error
        if taken and id in first.steps:
            for ratings in more:
                ratings.put(rater, item.key, first.steps[id].rating, id=id)
        return self._outcome(value, item, taken, id if id in first.steps else None)

    def undo(self, value: Any) -> dict[str, Any]:
        """Take back the change of that id; and what holds then."""
        rater, item, id = self._rater(value), self._item(value), self._id(value)
        taken = [self.ratings[run].undo(rater, id) for run in item.runs]
        return self._outcome(value, item, taken[0], None)

    def _outcome(self, value: Any, item: Item, taken: bool, step: str | None) -> dict[str, Any]:
        """taken: false where another page changed the same before, so that nothing was written."""
        rating = self.rating(self._rater(value), item)
        return {"taken": taken, "step": step, "rating": asdict(rating), **self._news(value)}

    def agreement(self, value: Any) -> dict[str, Any]:
        """How far every two raters agree on the answers that are here."""
        self._rater(value)
        raters: dict[str, dict[str, Rating]] = {}
        for ratings in self.ratings:
            for rater, given in [*ratings.raters.items()]:
                here = {key: rating for key, rating in [*given.items()] if key in self.places}
                raters.setdefault(rater, {}).update(here)
        pairs = [asdict(pair) for pair in rater_pairs(raters)]
        return {
            "pairs": [pair | {"kappa": None if pair["kappa"] != pair["kappa"] else pair["kappa"]} for pair in pairs]
        }

    def _rater(self, value: Any) -> str:
        """Whose request this is; and what others have written is known from here on."""
        try:
            rater = checked_rater(value.get("rater")) if isinstance(value, dict) else None
        except ValueError as error:
            raise Refused(str(error)) from error
        if rater is None:
            raise Refused("not a request of this page")
        for ratings in self.ratings:
            ratings.catch_up()
        return rater

    def _rater_here(self, value: Any) -> str:
        """Of a request that goes by places."""
        rater = self._rater(value)
        if value.get("version") != self.version:
            raise Refused("the answers are others by now: load this page again")
        return rater

    def _item(self, value: Any) -> Item:
        key = value.get("key")
        if not isinstance(key, str) or key not in self.places:
            raise Refused("no such answer")
        return self.items[self.places[key]]

    def _place(self, place: Any) -> int:
        if type(place) is not int or not 0 <= place < len(self.items):
            raise Refused("no such answer")
        return place

    def _id(self, value: Any) -> str:
        id = _text(value, "id", 64)
        if not id:
            raise Refused("id: missing")
        return id


def _has_words(answer: Answer, words: Sequence[str]) -> bool:
    text = f"{answer.instruction}\n{answer.input}\n{answer.reference}\n{answer.response}".casefold()
    return all(word in text for word in words)


@lru_cache(maxsize=64)  # it takes milliseconds, and an answer is often looked at again
def _marked(reference: str, response: str) -> tuple[Pieces, Pieces]:
    """Both texts as pieces that are in the other one and pieces that are not."""
    left, right = word_diff(reference, response)
    return [(shared, visible(text)) for shared, text in left], [(shared, visible(text)) for shared, text in right]


def _text(value: Any, name: str, longest: int) -> str:
    text = value.get(name, "")
    if not isinstance(text, str) or len(text) > longest:
        raise Refused(f"{name}: not a text of at most {longest:,} characters")
    return text


def rater_of(rater: str | None, runs: Sequence[Answers]) -> str:
    """The name given, or the login name; but a review that an earlier release began goes on without a name.

    Raises ConfigError for what is no name.
    """
    try:
        if rater is not None:
            return checked_rater(rater)
        for run in runs:
            if any(Ratings(run.run.ratings, read_only=True).raters.get("", {}).values()):
                return ""
        return checked_rater(getpass.getuser())
    except ValueError as error:
        raise ConfigError(f"ift review --rater: {error}") from error
    except (OSError, KeyError, ImportError):  # a user without an entry in the system's list
        return ""


def review(
    places: Sequence[str],
    *,
    blind: bool,
    rater: str | None,
    export: Path | None,
    take: Path | None,
    port: int,
    address: str,
    browser: bool,
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
    name = rater_of(rater, runs)
    if export or take:
        exchange(runs[0], export=export, take=take, rater=name)
        return
    there = Review(runs, blind=blind, rater=name)
    with PageServer(there, port, token=kept_token(runs[0].run.path / ".token"), address=address) as server:
        print(
            f"review    {len(there.items):,} answers, {there.rated(name):,} of them rated by {name or UNNAMED}; "
            "ratings are saved as you give them"
        )
        server.serve(browser=browser)
        print(f"rated     {there.rated(name):,} of {len(there.items):,} by {name or UNNAMED}")


def exchange(run: Answers, *, export: Path | None, take: Path | None, rater: str) -> None:
    """Ratings to and from a CSV. Nothing of a file is taken if a line of it is wrong.

    rater: whose ratings those are of which the file names none.
    """
    if take:
        given, ratings = read_csv(take, run.rows), Ratings(run.run.ratings)
        for name, rated_by in given.items():
            ratings.set_all(rated_by, name or rater)
        rated = len({key for rated_by in given.values() for key in rated_by})
        print(f"rated     {rated:,} answers of {run.name} by {take}")
    if export:
        rated = write_csv(export, run.rows, Ratings(run.run.ratings, read_only=True).raters)
        print(f"look at   {export}: {len(run.rows):,} answers, {rated:,} of them rated")
