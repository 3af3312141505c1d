"""Another model judges the answers: `python evaluate.py run=RUN eval=judge judge=score judge.model=NAME`.

Reads responses.jsonl and loads no model. Into RUN/evals/judge-NAME-MODEL go

    verdicts.jsonl   every reply that came; a request that is in here is never sent again
    samples.jsonl    one line a row: the answer, its score, the judge's reason
    results.json     the mean with its interval, how many rows could be scored, the results of the canaries
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ift.errors import ConfigError, DataError, IftError, MachineError, one_line
from ift.evaluation.answers import Answer, Answers, aligned, content_key, open_answers
from ift.evaluation.judge.canaries import CanaryResult, canary_responses, check_canaries
from ift.evaluation.judge.client import Dispatcher, budget_of
from ift.evaluation.judge.ledger import Ledger, OverBudgetError, estimated_tokens
from ift.evaluation.judge.problems import (
    HOPELESS,
    REFUSED,
    UNREAD,
    WITHOUT,
    cure_of,
    is_worth_asking_again,
    most_common,
    problem_of,
    shown,
)
from ift.evaluation.judge.replies import Read, read_rubric, read_score, read_winner
from ift.evaluation.judge.servers import RefusedError, connect
from ift.evaluation.judging import Messages, Reply, Request
from ift.evaluation.results import write_results
from ift.evaluation.statistics import (
    UNIT,
    Estimate,
    Scale,
    by_category,
    compare_pairs,
    length_adjusted_win_rate,
    mean_interval,
)
from ift.progress import progress
from ift.run import RunFolder, write_jsonl
from ift.settings import JudgeSettings


@dataclass(frozen=True)
class Item:
    """One thing to judge: a row's answer, or a canary that stands in its place."""

    row: int
    answer: Answer
    other: str | None = None  # of a pair, the other run's response
    canary: str | None = None
    flipped: bool = False  # of a pair, the other response is shown first


@dataclass(frozen=True)
class Verdict:
    """score: on the preset's scale, for a pair 1 for our answer, 0 for the other, 0.5 for a tie; None where unread."""

    score: float | None
    reason: str = ""
    reply: str = ""
    problem: str = ""  # unread, refused or without reply, where there is no score


def judge_answers(answers: Answers, settings: JudgeSettings) -> dict[str, Any] | None:
    """Get every verdict that is missing, write all three files and return the results; None for a dry run.

    Raises ConfigError, DataError and MachineError, the last also where nothing could be scored. Replies that came
    before an error are kept.
    """
    against = _other_answers(settings)
    rows: list[tuple[Answer, str | None]] = [(answer, None) for answer in answers.rows]
    if against:
        rows = [(ours, theirs.response) for ours, theirs in aligned([answers, against])]
    rows = rows[: settings.limit]
    if not rows:
        raise DataError(f"{answers.name}: no rows to judge" + (f" that {against.name} has too" if against else ""))
    budget = budget_of(settings)
    with closing(connect(settings)) as server:
        items = _items(rows, settings)
        by_place = settings.server == "replay"
        requests = [Request(messages(i, settings), i.row if by_place and i.canary is None else None) for i in items]
        _check_context(requests, settings)
        folder = folder_of(answers.run, settings, against)
        prompt = {"prompt": prompt_hash(settings)}
        with Ledger(folder / "verdicts.jsonl", [identity | prompt for identity in server.identities]) as ledger:
            missing = {request for request in requests if ledger.get(request) is None}
            cost = sum(map(budget.estimate, missing))
            print(_plan(len(items), missing, settings, cost), flush=True)
            if cost > settings.max_cost:
                raise ConfigError(
                    f"judge.max_cost={settings.max_cost:g}: this may cost ${cost:.2f} "
                    f"(judge.max_cost={math.ceil(cost)} allows it; judge.limit=N asks less)"
                )
            if settings.dry_run:
                return None
            asking = Asking(Dispatcher(server, ledger, budget, retries=settings.retries), settings)
            verdicts = asking.verdicts(items, requests)
    rated = _rated_rows(items, verdicts)
    results = {
        "name": folder.name,
        **measure(rated, verdicts, settings).to_json(),
        "judge": {
            "preset": settings.name,
            **server.identities[0],
            **prompt,
            "against": against.name if against else None,
            **({"changes": dict(server.changes)} if server.changes else {}),
        },
        **budget.totals(),
    }
    if any(verdict.problem != WITHOUT for verdict in verdicts):  # else what stands there says more
        write_jsonl(folder / "samples.jsonl", [row.sample() for row in rated if row.canary is None])
        write_results(folder / "results.json", results)
        print(*show_results(results, settings), f"look at   {folder / 'samples.jsonl'}", sep="\n")
    if asking.error:
        raise asking.error
    if not results["scored"] and asking.problems:
        raise _nothing_scored(len(rows), asking, settings)
    if results["unanswered"]:
        raise MachineError(
            f"judge: {results['unanswered']} of {len(items)} requests got no reply: {asking.stopped} "
            "(the same command goes on)"
        )
    return results


def _nothing_scored(rows: int, asking: Asking, settings: JudgeSettings) -> IftError:
    worst, n = asking.problems.most_common(1)[0]
    if settings.server == "replay":
        return DataError(f"{settings.replay}: scored 0 of {rows}: {one_line(worst, 60)} (are they of these rows?)")
    cure = cure_of(worst, settings, settings.max_tokens)
    replies = f"{n} of {asking.problems.total()} replies" if n < asking.problems.total() else f"all {n} replies"
    return MachineError(f"judge: scored 0 of {rows}; {replies} {one_line(worst, 110)} ({cure})")


def _other_answers(settings: JudgeSettings) -> Answers | None:
    """The run that a pairwise judge compares with; None for a judge that rates single answers."""
    if settings.reply == "winner":
        if not settings.against:
            raise ConfigError("judge.against: not set (add judge.against=RUN, the run to compare with)")
        return open_answers(settings.against)
    if settings.against:
        raise ConfigError(f"judge.against: means nothing to judge={settings.name} (add judge=pairwise)")
    return None


def _check_context(requests: Sequence[Request], settings: JudgeSettings) -> None:
    longest = max(map(estimated_tokens, requests)) + settings.max_tokens
    if settings.server == "ollama" and longest > settings.context_length:
        raise ConfigError(
            f"judge.context_length={settings.context_length}: the longest prompt may take {longest} tokens "
            f"(judge.context_length={longest}, or judge.max_characters lower)"
        )


def folder_of(run: RunFolder, settings: JudgeSettings, against: Answers | None) -> Path:
    model = settings.model or Path(settings.replay or "").stem
    name = f"judge-{settings.name}-{model}" + (f"-vs-{against.name}" if against else "")
    return run.evals / re.sub(r"[^\w.-]+", "-", name)


# -- requests ------------------------------------------------------------------------------------------------------


def messages(item: Item, settings: JudgeSettings) -> Messages:
    """The answers as one JSON object between markers that no answer can hold: they are made from the answers' hash."""
    ours = _cut(item.answer.response, settings.max_characters)
    data = {"instruction": item.answer.instruction, "input": item.answer.input, "reference": item.answer.reference}
    data = {name: text for name, text in data.items() if text}
    if item.other is None:
        data["response"] = ours
    else:
        pair = (ours, _cut(item.other, settings.max_characters))
        data["response_A"], data["response_B"] = reversed(pair) if item.flipped else pair
    body = json.dumps(data, ensure_ascii=False, indent=1)
    mark = content_key(settings.name, body)[:16]
    framed = f"<<<material {mark}>>>\n{body}\n<<<end of material {mark}>>>"
    return (("system", settings.system), ("user", settings.prompt.replace("{data}", framed)))


def _cut(text: str, longest: int) -> str:
    more = len(text) - longest
    return text if more <= 0 else f"{text[:longest]} [{more} more characters were cut here]"


def prompt_hash(settings: JudgeSettings) -> str:
    return content_key(settings.system, settings.prompt, settings.again)[:8]


def _items(rows: Sequence[tuple[Answer, str | None]], settings: JudgeSettings) -> list[Item]:
    """Canaries first: a judge that fails them should cost little before one sees it."""
    pairs = settings.reply == "winner"
    items = []
    for canary, row, text in canary_responses([answer for answer, _ in rows], settings):
        answer = rows[row][0]
        fake = Answer(answer.instruction, answer.input, answer.reference, text)
        items.append(Item(row, fake, other=answer.reference if pairs else None, canary=canary))
    items += [Item(row, answer, other=other) for row, (answer, other) in enumerate(rows)]
    return [replace(item, flipped=flipped) for item in items for flipped in (False, True)] if pairs else items


def _plan(n: int, missing: Set[Request], settings: JudgeSettings, cost: float) -> str:
    tokens = sum(map(estimated_tokens, missing))
    line = f"judge     {n:,} verdicts, {len(missing):,} requests to make; "
    line += f"about {tokens:,} tokens to send, {len(missing) * settings.max_tokens:,} at most to come back"
    return line + (f", ${cost:.4f} at most for one reply to each" if cost else "")


# -- verdicts ------------------------------------------------------------------------------------------------------


class Asking:
    """The way from requests to verdicts, and why it ended before the last one, if it did."""

    def __init__(self, dispatcher: Dispatcher, settings: JudgeSettings):
        self.dispatcher, self.settings = dispatcher, settings
        self.lock = threading.Lock()
        self.read = 0  # replies so far
        self.problems: Counter[str] = Counter()  # of those that were not read
        self.error: MachineError | None = None  # the server answers nothing any more
        self.reason = ""

    @property
    def stopped(self) -> str:
        return self.reason or self.dispatcher.last_problem

    def verdicts(self, items: Sequence[Item], requests: Sequence[Request]) -> list[Verdict]:
        """One for each item. Equal requests are sent once."""
        equal: dict[Request, list[int]] = {}
        for i, request in enumerate(requests):
            equal.setdefault(request, []).append(i)
        groups = list(equal.values())
        found = [Verdict(None, problem=WITHOUT)] * len(items)

        with progress("judged", len(groups), "verdicts") as advance:

            def work(group: int) -> None:
                members = groups[group]
                try:
                    read, text, problem = self.read_reply(requests[members[0]])
                except OverBudgetError:
                    self.stop(f"judge.max_cost={self.settings.max_cost:g} is reached")
                    return
                except MachineError as error:
                    self.error = self.error or error
                    self.stop(str(error))
                    return
                for i in members:
                    found[i] = _as_verdict(read, text, problem, items[i])
                self.count(problem)
                advance(1)

            self.dispatcher.in_parallel(work, len(groups), concurrency=self.settings.concurrency)
        return found

    def stop(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.dispatcher.stop.set()

    def count(self, problem: str) -> None:
        with self.lock:
            if problem == WITHOUT:
                return
            if problem:
                self.problems[problem] += 1
            else:
                self.read += 1
            new = min(self.problems.total(), self.dispatcher.budget.requests)  # what is kept costs nothing
            hopeless = not self.read and new >= HOPELESS and self.settings.server != "replay"
        if hopeless:
            self.stop(f"none of its first {HOPELESS} replies gives a score")

    def read_reply(self, request: Request) -> tuple[Read | None, str, str]:
        """(parsed reply, what came, problem). What cannot be parsed is asked for once more, with the rule."""
        reply = None
        try:
            reply = self.dispatcher.reply(request)
            if reply is None:
                return None, "", WITHOUT
            read = parse(reply, self.settings)
            problem = problem_of(reply)
            if read is None and self.settings.server != "replay" and is_worth_asking_again(problem):
                # an empty turn of the assistant is refused by some servers
                more = (("assistant", reply.text or "(nothing)"), ("user", self.settings.again))
                second = self.dispatcher.reply(Request(request.messages + more))
                if second is None:
                    return None, shown(reply), WITHOUT
                reply, read, problem = second, parse(second, self.settings), problem_of(second)
        except RefusedError as error:
            return None, shown(reply) if reply else "", f"{REFUSED}: {error}"
        return read, shown(reply), "" if read else problem


def parse(reply: Reply, settings: JudgeSettings) -> Read | None:
    """None where a reply says nothing, or where its last word or number may be half of one."""
    text = reply.text
    if reply.cut_off and text[-1:].isalnum():
        return None
    if settings.reply == "winner":
        return read_winner(text)
    return (read_rubric if settings.reply == "rubric" else read_score)(text, settings.low, settings.high)


def _as_verdict(read: Read | None, text: str, problem: str, item: Item) -> Verdict:
    if read is None:
        return Verdict(None, "", text, problem)
    if read.winner is None:
        return Verdict(read.score, read.reason, text)
    ours = "B" if item.flipped else "A"
    return Verdict(0.5 if read.winner == "tie" else float(read.winner == ours), read.reason, text)


@dataclass(frozen=True)
class RatedRow:
    """A row or a canary with its verdicts: one, or for a pair those of both orders."""

    item: Item
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def canary(self) -> str | None:
        return self.item.canary

    @property
    def score(self) -> float | None:
        """Of a pair, a win only if both orders say so; None where a verdict is missing."""
        scores = [verdict.score for verdict in self.verdicts]
        if None in scores:
            return None
        return scores[0] if len(set(scores)) == 1 else 0.5

    def sample(self) -> dict[str, Any]:
        """A line of samples.jsonl."""
        answer = self.item.answer
        return {
            "instruction": answer.instruction,
            "input": answer.input,
            "reference": answer.reference,
            "response": answer.response,
            **({} if self.item.other is None else {"other_response": self.item.other}),
            "category": answer.category,
            "key": answer.key,
            "score": self.score,
            "reason": "\n".join(filter(None, (verdict.reason for verdict in self.verdicts))),
            "replies": [verdict.reply for verdict in self.verdicts],
            "problem": "; ".join(dict.fromkeys(filter(None, (verdict.problem for verdict in self.verdicts)))),
        }


def _rated_rows(items: Sequence[Item], verdicts: Iterable[Verdict]) -> list[RatedRow]:
    rows: dict[tuple[str | None, int], RatedRow] = {}
    for item, verdict in zip(items, verdicts, strict=True):
        rows.setdefault((item.canary, item.row), RatedRow(item)).verdicts.append(verdict)
    return list(rows.values())


# -- results -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairResults:
    """What only a pairwise judge gives. p: of the hypothesis that both runs are equally good."""

    wins: int
    ties: int
    losses: int
    p: float
    verdict: str  # better, worse, not settled
    rows_to_settle: int | None
    orders_agree: float | None  # share of rows with the same winner whichever answer is shown first
    length_adjusted: float  # win rate if both sides wrote equally long answers


@dataclass(frozen=True)
class JudgeResults:
    """What a judge's verdicts come to. bounds: the mean if every row without a score had the worst score, the best."""

    rows: int
    scored: int
    scale: tuple[int, int]
    estimate: Estimate  # over the rows that were scored
    bounds: tuple[float, float]
    problems: Mapping[str, int]  # of verdicts without a score
    canaries: Mapping[str, CanaryResult]
    by_category: Mapping[str, Estimate]
    pairs: PairResults | None

    def to_json(self) -> dict[str, Any]:
        kinds: Counter[str] = Counter()
        for problem, n in self.problems.items():
            kinds[problem.split(":")[0]] += n
        failed = [kind for kind, canary in self.canaries.items() if not canary.in_range]
        categories = {name: _finite_values(estimate) for name, estimate in self.by_category.items()}
        return {
            "rows": self.rows,
            "scored": self.scored,
            "scale": list(self.scale),
            "mean": _finite(self.estimate.mean),
            "low": _finite(self.estimate.low),
            "high": _finite(self.estimate.high),
            "bounds": list(self.bounds),
            "unread": kinds[UNREAD],
            "refused": kinds[REFUSED],
            "unanswered": kinds[WITHOUT],
            "problems": dict(self.problems),
            "canaries": {kind: canary.to_json() for kind, canary in self.canaries.items()},
            "valid": not failed if self.canaries else None,
            "invalid_because": failed,
            **({"by_category": categories} if categories else {}),
            **(_finite_values(self.pairs) if self.pairs else {}),
        }


def measure(rated: Sequence[RatedRow], verdicts: Sequence[Verdict], settings: JudgeSettings) -> JudgeResults:
    rows = [row for row in rated if row.canary is None]
    scored = [row for row in rows if row.score is not None]
    scores = [row.score for row in scored if row.score is not None]
    categories = [row.item.answer.category for row in scored]
    of_canaries: dict[str, list[float]] = defaultdict(list)
    for row in rated:
        if row.canary is not None and row.score is not None:
            of_canaries[row.canary].append(row.score)
    total, missing = sum(scores), len(rows) - len(scores)
    scale = Scale(settings.low, settings.high)
    return JudgeResults(
        rows=len(rows),
        scored=len(scores),
        scale=(settings.low, settings.high),
        estimate=mean_interval(scores, scale),
        bounds=((total + missing * settings.low) / len(rows), (total + missing * settings.high) / len(rows)),
        problems=Counter(one_line(verdict.problem, 100) for verdict in verdicts if verdict.problem),
        canaries=check_canaries(of_canaries, settings),
        by_category=by_category(scores, categories, scale) if any(categories) else {},
        pairs=_compare(scored, scores) if settings.reply == "winner" else None,
    )


def _compare(scored: Sequence[RatedRow], scores: Sequence[float]) -> PairResults:
    test = compare_pairs([0.5] * len(scores), scores, UNIT)
    agreeing = sum(len({verdict.score for verdict in row.verdicts}) == 1 for row in scored)
    ours = [len(row.item.answer.response) for row in scored]
    theirs = [len(row.item.other or "") for row in scored]
    return PairResults(
        wins=scores.count(1.0),
        ties=scores.count(0.5),
        losses=scores.count(0.0),
        p=test.p,
        verdict=test.verdict(),
        rows_to_settle=test.rows_to_settle,
        orders_agree=agreeing / len(scored) if scored else None,
        length_adjusted=length_adjusted_win_rate(scores, ours, theirs),
    )


def _finite(value: Any) -> Any:
    """As JSON has it: no nan, no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite_values(results: Estimate | PairResults) -> dict[str, Any]:
    return {name: _finite(value) for name, value in asdict(results).items()}


def show_results(results: Mapping[str, Any], settings: JudgeSettings) -> list[str]:
    """The closing lines for the terminal: always how many of how many rows, with bounds where some are missing."""
    low, high = results["scale"]
    if not results["scored"]:
        return [f"judged    scored 0 of {results['rows']}"]
    pairs = "wins" in results
    what = "win rate" if pairs else f"mean score ({low} to {high})"
    form = ".3f" if high - low <= 10 else ".2f"
    line = f"judged    {what} {results['mean']:{form}}"
    if results["low"] is not None:
        line += f" (95 %: {results['low']:{form}} to {results['high']:{form}})"
    line += f"; scored {results['scored']} of {results['rows']}"
    if results["scored"] < results["rows"]:
        least, most = results["bounds"]
        line += f", so between {least:{form}} and {most:{form}} whatever the rest is worth"
    lines = [line]
    if pairs:
        lines.append(
            f"          {results['wins']} won, {results['ties']} tied, {results['losses']} lost, "
            f"both orders agree on {results['orders_agree']:.0%}; {results['verdict']} (p = {results['p']:.3f}); "
            f"at equal length {results['length_adjusted']:{form}}"
        )
    if results["valid"] is False:
        failed = ", ".join(f"{kind} {results['canaries'][kind]['mean']:.0%}" for kind in results["invalid_because"])
        lines.append(f"          INVALID: this judge cannot be believed, it gives of the scale: {failed}")
    elif results["valid"] is None:
        lines.append("          without canaries: nothing is known about this judge")
    problems = {name: n for name, n in results["problems"].items() if name != WITHOUT}
    if problems:
        worst = most_common(problems)
        cure = cure_of(worst, settings, settings.max_tokens)
        lines.append(f"          {problems[worst]} of {sum(problems.values())} verdicts missing: {worst} ({cure})")
    return lines
