"""`ift arena RUN RUN...`: two hidden models answer the same instruction, and a person says which answer is better.

The instruction comes from the rows that both answered (responses.jsonl), or is typed in; then the models are loaded
and answer at once. Which model stands on which side is drawn anew for each battle and shown after the vote. Battles
and votes are in the database before the page gets a reply (`evaluation/arena/votes.py`).
"""

from __future__ import annotations

import random
import re
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.apps.local_page import PageServer, Refused
from ift.errors import ConfigError, DataError, one_line, report
from ift.evaluation.answers import Answer, Answers, aligned, content_key, open_answers
from ift.evaluation.arena.battles import TIE, WINNERS, checked_name, write_votes
from ift.evaluation.arena.ratings import Collected, collect, leaderboard, show_leaderboard
from ift.evaluation.arena.votes import NAME, PERSON, SAME, Shown, Vote, Votes
from ift.pages.page import Page
from ift.run import RunFolder
from ift.settings import EvaluateSettings
from ift.text.printable import printable

if TYPE_CHECKING:
    from ift.evaluation.subject import Subject

LONGEST_INSTRUCTION = 20_000  # characters that can be typed in
LOADED = 2  # models in memory at the same time
TEST_SPLIT, TYPED_IN = "test split", "typed in"
PAGE = Page("arena", Path(__file__).parent, served=True)


@dataclass(frozen=True)
class Contender:
    """A model by its answers, by its weights, or by both. live: it can answer what is typed in."""

    name: str
    run: RunFolder
    rows: Sequence[Answer]
    live: bool


def open_contenders(places: Sequence[str]) -> list[Contender]:
    """Run folders and files of answers; of two with the same name, each gets that of its folder in front.

    Raises ConfigError and DataError.
    """
    opened = [_open(place) for place in places]
    count = Counter(answers.name for answers in opened)
    contenders = []
    for answers, place in zip(opened, places, strict=True):
        parent = Path(place).resolve().parent.name
        name = f"{parent}/{answers.name}" if count[answers.name] > 1 else answers.name
        try:
            checked_name(name)
        except ValueError as error:
            raise ConfigError(f"{one_line(place, 80)}: {error} (rename the folder)") from error
        contenders.append(Contender(name, answers.run, answers.rows, answers.run.model.is_dir()))
    if len({contender.name for contender in contenders}) < len(contenders):
        raise ConfigError("ift arena: the same model twice, or two of the same name (give each once)")
    return contenders


def _open(place: str) -> Answers:
    """A run without responses.jsonl can still answer what is typed in."""
    run = RunFolder(place)
    if run.model.is_dir() and not run.responses.exists():
        return Answers(run.path.resolve().name, run, [])
    return open_answers(place)


class Models:
    """Answers at once, by models that are loaded when they are first needed; one answers at a time."""

    def __init__(self, settings: EvaluateSettings):
        self.settings = settings
        self.lock = threading.Lock()
        self.loaded: dict[str, Subject] = {}

    def answer(self, contender: Contender, instruction: str, given: str) -> str:
        """Raises IftError where the model cannot be loaded, ValueError where the instruction is too long for it."""
        from ift.data.reading.rows import Row
        from ift.evaluation.responses import respond
        from ift.evaluation.subject import Bench

        row = Row(instruction, given, file="typed in", number=1)
        with self.lock:
            subject = self.loaded.pop(contender.name, None)
            if subject is None:
                while len(self.loaded) >= LOADED:
                    del self.loaded[next(iter(self.loaded))]
                subject = Bench(contender.run, self.settings).tuned
            self.loaded[contender.name] = subject
            assert subject.template
            if subject.template.plain:
                raise Refused("one of the models was trained on plain text: it takes no instructions")
            if not subject.fits(row, self.settings.eval.generate):
                raise Refused("this is too long for one of the models")
            [response] = respond(
                subject.model,
                [row],
                subject.template,
                subject.tokenizer,
                self.settings.eval.generate,
                seed=self.settings.seed,
            )
        return str(response["response"])


@dataclass
class Asking:
    """Something that was typed in: what is being done, then the battle or what went wrong."""

    doing: str = "loading the models"
    battle: Shown | None = None
    problem: str = ""


class Arena:
    """What a page asks for. Everything that matters is read from the database: others may write it as well."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        votes: Votes,
        models: Models,
        collected: Callable[[], Collected],
    ):
        """Raises ConfigError for fewer than two, DataError where they have nothing to be compared by."""
        if len(contenders) < 2:
            raise ConfigError("ift arena: a battle is between two models (give two runs or more)")
        self.contenders = {contender.name: contender for contender in contenders}
        self.votes, self.models, self.collected = votes, models, collected
        self.live = [contender for contender in contenders if contender.live]
        self.pairs = list(combinations(sorted(self.contenders), 2))
        # the order must not change when it goes on tomorrow, nor follow the rows or the runs
        self.planned = {
            pair: sorted(self._rows(pair), key=lambda battle: content_key("arena", battle.about)) for pair in self.pairs
        }
        self.rows = sum(map(len, self.planned.values()))
        if not self.rows and len(self.live) < 2:
            raise DataError("ift arena: these have no row in common (answers to the same instructions are compared)")
        self.lock = threading.Lock()
        self.skipped: set[str] = set()
        self.jobs: dict[str, Asking] = {}
        self.policy = PAGE.policy
        self.posts: Mapping[str, Callable[[Any], dict[str, Any]]] = {
            "/next": self.next,
            "/vote": self.vote,
            "/undo": self.undo,
            "/ask": self.ask,
            "/asked": self.answered,
            "/standings": self.standings,
        }

    def _rows(self, pair: tuple[str, str]) -> list[Shown]:
        runs = [Answers(name, self.contenders[name].run, self.contenders[name].rows) for name in pair]
        battles: dict[str, Shown] = {}
        for first, second in aligned(runs):
            battle = _battle(TEST_SPLIT, *first.question, {pair[0]: first.response, pair[1]: second.response})
            battles.setdefault(battle.about, battle)
        return list(battles.values())

    def page(self) -> str:
        return PAGE.render(models=len(self.contenders), rows=self.rows, live=len(self.live) >= 2)

    # -- what the page asks for. Values come from anywhere: ValueError for what cannot be

    def next(self, value: Any) -> dict[str, Any]:
        """The next battle of the pair that has the fewest; {} battle where all have a vote. skip: the key of one."""
        skip = _text(value, "skip", 100)
        with self.lock:
            if skip and (left := self.votes.shown(skip)):
                self.skipped.add(left.about)
            votes = self.votes.standing()
            decided = {vote.about for vote in votes}
            for pair in self._fewest_first(decided):
                battle, ties = self._first_open(self.planned[pair], decided)
                votes += [Vote(tie.about, TIE, SAME, tie.model_a, tie.model_b) for tie in ties]
                if battle:
                    return self._to_page(battle, votes)
        return {"battle": None, "progress": self._progress(votes)}

    def _fewest_first(self, decided: Set[str]) -> list[tuple[str, str]]:
        done = {pair: sum(battle.about in decided for battle in self.planned[pair]) for pair in self.pairs}
        return sorted(self.pairs, key=lambda pair: (done[pair], content_key(*pair)))

    def _first_open(self, planned: Sequence[Shown], decided: Set[str]) -> tuple[Shown | None, list[Shown]]:
        """The first battle without a vote, and the ties before it: equal answers are noted where they come up."""
        ties, found = [], None
        for battle in planned:
            if battle.about in decided or battle.about in self.skipped:
                continue
            if battle.response_a.strip() == battle.response_b.strip():
                ties.append(replace(battle, key=secrets.token_hex(16)))
                continue
            found = battle
            break
        if ties:
            self.votes.note_ties(ties)
        if found is None:
            return None, ties
        before = self.votes.open(found.about)
        return before or self._show(found), ties

    def _show(self, battle: Shown) -> Shown:
        """Keep it under a random key, the sides in random order."""
        shown = replace(battle, key=secrets.token_hex(16))
        if secrets.randbelow(2):
            shown = replace(
                shown,
                model_a=battle.model_b,
                model_b=battle.model_a,
                response_a=battle.response_b,
                response_b=battle.response_a,
            )
        self.votes.show(shown)
        return shown

    def vote(self, value: Any) -> dict[str, Any]:
        """What stands then, and who was who. A battle has one vote: of two, the first stands."""
        key, winner = _text(value, "battle", 100), _text(value, "winner", 20)
        if winner not in WINNERS:
            raise Refused("no such vote")
        battle = self.votes.shown(key)
        if battle is None:
            raise Refused("no such battle")
        stands = self.votes.vote(key, winner)
        names = {"model_a": battle.model_a, "model_b": battle.model_b}
        return {"battle": key, "winner": stands, "names": names, "progress": self._progress()}

    def undo(self, value: Any) -> dict[str, Any]:
        """Take the newest vote back; its battle, to vote on it again."""
        with self.lock:
            battle = self.votes.undo(list(self.contenders))
        return self._to_page(battle) if battle else {"battle": None, "progress": self._progress()}

    def ask(self, value: Any) -> dict[str, Any]:
        """Let two models answer what was typed in; `answered` says how far they are."""
        instruction, given = (_text(value, name, LONGEST_INSTRUCTION) for name in ("instruction", "input"))
        if not instruction.strip():
            raise Refused("no instruction")
        if len(self.live) < 2:
            raise Refused("fewer than two of these models can answer (a run's folder holds its model)")
        with self.lock:
            if any(not asking.battle and not asking.problem for asking in self.jobs.values()):
                raise Refused("the models are answering something else")
            job, asking = secrets.token_hex(16), Asking()
            self.jobs = {job: asking}  # no page waits for an older one
        threading.Thread(target=self._answer, args=(asking, instruction, given), daemon=True).start()
        return {"job": job}

    def _answer(self, asking: Asking, instruction: str, given: str) -> None:
        try:
            had = Counter(
                frozenset((battle.model_a, battle.model_b))
                for battle in self.votes.standing()
                if battle.judge == PERSON
            )
            pairs = list(combinations((contender.name for contender in self.live), 2))
            pair = min(pairs, key=lambda pair: (had[frozenset(pair)], random.random()))
            responses = {}
            for number, name in enumerate(pair):
                responses[name] = self.models.answer(self.contenders[name], instruction, given)
                asking.doing = f"answering: {number + 1} of 2 done"
            asking.battle = self._show(_battle(TYPED_IN, instruction, given, responses))
        except (Exception, SystemExit) as error:
            if not isinstance(error, ValueError):  # a text that is too long is the person's mistake
                report(error)
            asking.problem = one_line(self._without_names(str(error) or type(error).__name__), 160)

    def _without_names(self, text: str) -> str:
        """A message that does not give away which models are answering."""
        names = {str(contender.run.path) for contender in self.contenders.values()} | set(self.contenders)
        for name in sorted(names, key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "MODEL", text)
        return text

    def answered(self, value: Any) -> dict[str, Any]:
        asking = self.jobs.get(_text(value, "job", 100))
        if asking is None:
            return {"problem": "the server was started again: ask once more"}
        if asking.battle:
            return self._to_page(asking.battle)
        return {"problem": asking.problem} if asking.problem else {"doing": asking.doing}

    def standings(self, value: Any) -> dict[str, Any]:
        """The leaderboard of all battles there are."""
        found = self.collected()
        if not found.battles:
            return {"leaderboard": [], "win_rates": [], "notes": [], "battles": "no battles so far"}
        ranked = leaderboard(found.battles)
        return {
            **ranked.to_json(),
            "notes": [*found.notes, *ranked.notes],
            "battles": found.show()[0].removeprefix("battles").strip().replace(":", " battles:", 1),
            "ours": list(self.contenders),
        }

    def outdated(self) -> int:
        """How many votes are on answers to rows that models of these names no longer give: trained again, perhaps."""
        now = {battle.about for battles in self.planned.values() for battle in battles}
        return sum(
            shown.source == TEST_SPLIT
            and {shown.model_a, shown.model_b} <= self.contenders.keys()
            and shown.about not in now
            for shown in self.votes.voted_on()
        )

    # -- replies to the page

    def _to_page(self, battle: Shown, votes: Sequence[Vote] | None = None) -> dict[str, Any]:
        return {
            "battle": battle.key,
            "source": battle.source,
            "instruction": printable(battle.instruction),
            "input": printable(battle.input),
            "answers": [printable(battle.response_a), printable(battle.response_b)],
            "progress": self._progress(votes),
        }

    def _progress(self, votes: Sequence[Vote] | None = None) -> dict[str, int]:
        """votes: of people, between models that are here; done: of the rows, those that need no vote any more."""
        votes = self.votes.standing() if votes is None else votes
        decided = {vote.about for vote in votes}
        rows = [battle.about for battles in self.planned.values() for battle in battles]
        ours = [
            vote for vote in votes if vote.winner in WINNERS and {vote.model_a, vote.model_b} <= self.contenders.keys()
        ]
        return {
            "rows": self.rows,
            "done": sum(about in decided for about in rows),
            "same": sum(vote.judge == SAME for vote in ours),
            "votes": sum(vote.judge == PERSON for vote in ours),
        }


def _battle(source: str, instruction: str, given: str, responses: Mapping[str, str]) -> Shown:
    """Not shown yet: sides in the order of the names, no key."""
    (a, response_a), (b, response_b) = sorted(responses.items())
    about = content_key(instruction, given, a, response_a, b, response_b)
    return Shown("", about, source, instruction, given, a, b, response_a, response_b)


def _text(value: Any, name: str, longest: int) -> str:
    """A text of what a page sent; "" where it is not there."""
    text = value.get(name) if isinstance(value, dict) else None
    if text is None and isinstance(value, dict):
        return ""
    if not isinstance(text, str) or len(text) > longest:
        raise Refused(f"{name}: not a text of at most {longest:,} characters")
    return text.encode("utf-8", "replace").decode()


def arena(
    places: Sequence[str],
    *,
    votes: Path | None,
    battles: Path | None,
    only_leaderboard: bool,
    export: Path | None,
    settings: EvaluateSettings,
    port: int,
    browser: bool,
    address: str = "",
) -> None:
    """Serve the page until Ctrl-C; or print the leaderboard; or write the battles to a file.

    Raises ConfigError, DataError and MachineError.
    """
    if not places and not (only_leaderboard and (votes or battles)):
        raise ConfigError("ift arena: no run given (ift arena RUN RUN, or --leaderboard --battles FILE)")
    contenders = open_contenders(places)
    if places and votes is None:
        votes = contenders[0].run.path.resolve().parent / NAME

    def collected() -> Collected:
        return collect({contender.name: contender.run for contender in contenders}, votes=votes, battles=battles)

    if only_leaderboard or export:
        found = collected()
        if not found.battles:
            raise ConfigError(f"ift arena: no battles in {votes or battles} (vote first: ift arena RUN RUN)")
        if export:
            own = [battle for battle in found.battles if battle.row is None]
            print(f"look at   {export}: {write_votes(export, own):,} battles")
        if only_leaderboard:
            for line in (*found.show(), "", *show_leaderboard(leaderboard(found.battles))):
                print(line)
        return
    assert votes
    with Votes(votes) as there:
        served = Arena(contenders, there, Models(settings), collected)
        if battles:
            collected()  # an error in that file is reported before the page opens
        with PageServer(served, port, token=there.token, address=address) as server:
            done = served._progress()
            print(
                f"arena     {len(contenders)} models, {done['rows']:,} battles from their answers, "
                f"{done['votes']:,} votes so far"
            )
            if outdated := served.outdated():
                print(
                    f"note      {outdated:,} votes are on answers that these models no longer give, and still count "
                    "(--votes FILE begins anew)"
                )
            print(f"votes     {votes}: saved as you give them")
            server.serve(browser=browser)
            print(f"voted     {served._progress()['votes']:,} times")
