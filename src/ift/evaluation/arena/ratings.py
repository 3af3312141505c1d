"""Who answers best, by battles: the method of the Chatbot Arena on one's own votes, on a judge's, on public files.

    python evaluate.py run=RUN eval=arena                                        votes that `ift arena` took
    python evaluate.py run=RUN eval=arena judge=pairwise judge.model=NAME eval.against=[RUN,FILE]
    python evaluate.py run=RUN eval=arena eval.battles=FILE                      the Arena's public votes

Ratings are those of Bradley and Terry (1952), the maximum of the likelihood by `choix`, on Elo's scale: 400 points are
odds of 10 to 1, a tie is half a win for each side, the mean of all models is 1000. Intervals are those of the Bayesian
bootstrap (Rubin 1981) under a prior of one win and one loss more for each model; of a model that won or lost every
battle, only the end that the battles set is given. Needs no torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ift.errors import ConfigError, DataError, MachineError, missing_extra, one_line
from ift.evaluation.answers import Answers, open_answers
from ift.evaluation.arena.battles import TIE, Battle, checked_name, read_votes
from ift.evaluation.arena.votes import NAME, Votes, is_database
from ift.evaluation.results import between, read_judgements
from ift.evaluation.statistics import UNIT, Estimate, mean_interval
from ift.run import RunFolder, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from ift.evaluation.results import Outcome
    from ift.evaluation.subject import Bench
    from ift.settings import EvaluateSettings

SCALE, MEAN = 400 / math.log(10), 1000.0
ELO_STEP = 4  # K: what a battle can move at most
ROUNDS = 500  # of the bootstrap
STEPS = 10_000  # of the iteration, which takes some tens where the models meet often
MOST_MODELS = 500  # the Arena has some 300; more are no names, and their matrix would fill the memory
NOTHING = (
    "eval=arena: nothing to rate (vote: ift arena RUN RUN; or judge=pairwise judge.model=NAME "
    "eval.against=[RUN]; or eval.battles=FILE)"
)
HEADLINES = 10  # models shown first; of a public file's 130 the rest is in a fold

Matrix = NDArray[np.float64]


# -- ratings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """One line of the leaderboard. low, high: 95 % interval of the rating; None where battles set no bound there.

    rank     1 + the number of models whose low is above this one's high, so that models may share one; None where the
             interval overlaps with those of all others: the battles do not tell it from any
    elo      as it stands after the last battle, in the order of their time; another order gives another number
    """

    model: str
    rank: int | None
    rating: float
    low: float | None
    high: float | None
    elo: float
    battles: int
    win_rate: float  # ties count half
    win_low: float
    win_high: float


@dataclass(frozen=True)
class Leaderboard:
    """win_rates[i][j]: the share that standing i won against standing j, ties half; None where they never met."""

    standings: list[Standing]
    win_rates: list[list[float | None]]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {"leaderboard": [asdict(standing) for standing in self.standings], "win_rates": self.win_rates}


def leaderboard(battles: Sequence[Battle], *, rounds: int = ROUNDS) -> Leaderboard:
    """Ratings, ranks and win rates. Raises ConfigError for no battles, DataError for more than 500 models."""
    if not battles:
        raise ConfigError("no battles: nothing to rate")
    models, rows, counts = table(battles)
    if len(models) > MOST_MODELS:
        raise DataError(
            f"{len(models):,} models in these battles, more than {MOST_MODELS} (is model_a a model's name?)"
        )
    wins = won(rows, counts, len(models))
    strengths = bradley_terry(wins)
    drawn = bayesian_bootstrap(rows, counts, len(models), start=strengths, rounds=rounds)
    groups = [Group.of(wins, members) for members in _members(pieces(wins, "weak"))]
    rating, low, high = (np.empty(len(models)) for _ in range(3))
    rank: dict[int, int | None] = {}
    for group in groups:
        m = group.members
        rating[m] = points(group.centred(strengths))
        ends = np.percentile(points(group.centred(drawn)), (2.5, 97.5), axis=0)
        low[m] = np.where(group.bounded_below, ends[0], -math.inf)
        high[m] = np.where(group.bounded_above, ends[1], math.inf)
        rank |= {i: _rank(low[i], high[i], low[m], high[m]) for i in m}
    elo = online_elo(sorted(battles, key=lambda battle: battle.tstamp))
    met = wins + wins.T
    order = [i for group in groups for i in sorted(group.members, key=lambda i: (-rating[i], models[i]))]
    standings = [
        Standing(
            model=models[i],
            rank=rank[i],
            rating=float(rating[i]),
            low=_finite(low[i]),
            high=_finite(high[i]),
            elo=elo[models[i]],
            battles=round(met[i].sum()),
            win_rate=(share := win_rate(rows, counts, i)).mean,
            win_low=share.low,
            win_high=share.high,
        )
        for i in order
    ]
    shares = [[float(wins[i, j] / met[i, j]) if met[i, j] else None for j in order] for i in order]
    return Leaderboard(standings, shares, [*warnings(models, wins, groups), *_without_rank(standings)])


def _members(piece: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The models of each piece, the largest first."""
    found = [np.flatnonzero(piece == k) for k in range(piece.max() + 1)]
    return sorted(found, key=lambda members: -len(members))


def _rank(low: float, high: float, lows: Matrix, highs: Matrix) -> int | None:
    """1 + the models that are certainly above this one; None where nothing is certainly above or below it."""
    above, below = int((lows > high).sum()), int((highs < low).sum())
    return 1 + above if above or below else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Group:
    """Models that battles connect. Ratings of one group say nothing beside those of another.

    members         (m,) numbers of the models
    middle          those whose mean is 1000: the largest set in which every model is connected with every other by wins
                    of its own and by losses, so that all distances are finite; all members where there is none
    bounded_below   (m,) whether wins lead from the model to all of the middle; without, its rating has no lower bound
    bounded_above   (m,) likewise losses; a model that won every battle has a rating of at least so much, and no more
                    can be said
    """

    members: NDArray[np.int64]
    middle: NDArray[np.int64]
    bounded_below: NDArray[np.bool_]
    bounded_above: NDArray[np.bool_]

    @classmethod
    def of(cls, wins: Matrix, members: NDArray[np.int64]) -> Group:
        from scipy.sparse.csgraph import shortest_path

        inside = wins[np.ix_(members, members)]
        leads = np.isfinite(shortest_path(inside, unweighted=True))  # [i, j]: i beat one that beat ... j
        middle = _members(pieces(inside, "strong"))[0]
        if len(middle) == 1:
            middle = np.arange(len(members))
        return cls(members, members[middle], leads[:, middle].all(axis=1), leads[middle].all(axis=0))

    @property
    def whole(self) -> bool:
        """All distances within the group are finite."""
        return bool(self.bounded_below.all() and self.bounded_above.all())

    def centred(self, strengths: Matrix) -> Matrix:
        """(..., n) strengths of all models -> (..., m) of its members, the mean of the middle being 0."""
        return strengths[..., self.members] - strengths[..., self.middle].mean(axis=-1, keepdims=True)


def table(battles: Sequence[Battle]) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Models by name; each different (first, second, outcome) with first < second, (k, 3); how often it occurs, (k,).

    outcome: 2 where the first won, 1 for a tie, 0 where the second did. All that ratings depend on, whatever the order
    of the battles and whoever stood on which side; 100,000 battles become some thousand rows.
    """
    models = sorted({name for battle in battles for name in (battle.model_a, battle.model_b)})
    number = {model: i for i, model in enumerate(models)}
    found: Counter[tuple[int, int, int]] = Counter()
    for battle in battles:
        a, b, outcome = number[battle.model_a], number[battle.model_b], int(2 * battle.score)
        found[(a, b, outcome) if a < b else (b, a, 2 - outcome)] += 1
    rows = sorted(found)
    return models, np.array(rows, dtype=np.int64).reshape(-1, 3), np.array([found[row] for row in rows])


def won(rows: NDArray[np.int64], counts: NDArray[Any], n: int) -> Matrix:
    """(n, n): how often the model of the line beat that of the column; a tie is half a win of each."""
    first, second, share = rows[:, 0], rows[:, 1], rows[:, 2] / 2
    flat = np.zeros(n * n)
    flat += np.bincount(first * n + second, counts * share, n * n)
    flat += np.bincount(second * n + first, counts * (1 - share), n * n)
    return flat.reshape(n, n)


def win_rate(rows: NDArray[np.int64], counts: NDArray[np.int64], model: int) -> Estimate:
    """The share of a model's battles that it won, ties half, with its 95 % interval."""
    results = np.concatenate([rows[rows[:, 0] == model, 2], 2 - rows[rows[:, 1] == model, 2]])
    times = np.concatenate([counts[rows[:, 0] == model], counts[rows[:, 1] == model]])
    return mean_interval(np.repeat(results / 2, times), UNIT)


def bradley_terry(wins: Matrix, start: Matrix | None = None, *, tolerance: float = 1e-8) -> Matrix:
    """(n, n) wins -> (n,) strengths: model i beats j with odds of exp(strength i - strength j).

    Where some models never lost against all the others, those strengths would be infinite. Then each model is given
    one win and one loss more, shared out over all others, which keeps them finite. start: where to begin; tolerance: by
    how much the last step may still change all strengths together. Raises MachineError without choix.
    """
    try:
        import choix
    except ImportError as error:
        raise missing_extra("choix", "arena") from error
    n = len(wins)
    if (wins > 0).sum() < n * (n - 1) and pieces(wins, "strong").max():  # the first is quick, and decides most
        wins = wins + (1 - np.eye(n)) / (n - 1)
    try:
        strengths: Matrix = choix.ilsr_pairwise_dense(wins, initial_params=start, max_iter=STEPS, tol=tolerance)
    except (RuntimeError, ValueError) as error:
        raise MachineError(f"choix: {one_line(str(error), 80)} (are there enough battles?)") from error
    return strengths - strengths.mean()


def pieces(wins: Matrix, connection: str) -> NDArray[np.int64]:
    """(n,) the number of each model's piece. weak: within one, battles connect any two; strong: wins do, both ways."""
    from scipy.sparse.csgraph import connected_components

    labels: NDArray[np.int64] = connected_components(wins > 0, directed=True, connection=connection)[1]
    return labels


def points(strengths: Matrix) -> Matrix:
    return MEAN + SCALE * strengths


def bayesian_bootstrap(
    rows: NDArray[np.int64], counts: NDArray[np.int64], n: int, *, start: Matrix, rounds: int = ROUNDS
) -> Matrix:
    """(rounds, n) strengths where each battle weighs an exponential number, not 1, and a prior is added (Rubin 1981).

    The prior is one win and one loss more for each model, shared out over all others, with such weights too. Of two
    models the share of wins is then Beta(wins + 1, losses + 1), however few battles there are.
    """
    random = np.random.default_rng(0)
    others = (1 - np.eye(n)) / (n - 1)
    drawn = []
    for _ in range(rounds):
        wins, losses = random.gamma(0.5, size=(2, n))
        weighed = won(rows, random.gamma(counts), n) + others * (wins[:, None] + losses)
        drawn.append(bradley_terry(weighed, start, tolerance=1e-5))  # 0.002 points
    return np.stack(drawn)


def online_elo(battles: Iterable[Battle]) -> dict[str, float]:
    """Ratings after the last battle: all begin at 1000, and each battle moves two of them by at most 4 points."""
    rating: dict[str, float] = {}
    for battle in battles:
        a, b = rating.setdefault(battle.model_a, MEAN), rating.setdefault(battle.model_b, MEAN)
        step = ELO_STEP * (battle.score - 1 / (1 + 10 ** ((b - a) / 400)))
        rating[battle.model_a], rating[battle.model_b] = a + step, b - step
    return rating


def warnings(models: Sequence[str], wins: Matrix, groups: Sequence[Group]) -> list[str]:
    """What the ratings cannot say, in whole sentences."""
    lines = []
    if len(groups) > 1:
        names = "; ".join(_some([models[i] for i in group.members]) for group in groups)
        lines.append(
            "No battle connects these groups, so ratings and ranks of one say nothing beside those of another, and "
            f"each has its own mean of 1000: {names}."
        )
    unbounded = [group for group in groups if not group.whole]
    if unbounded:
        never_won = [model for model, line in zip(models, wins, strict=True) if not line.any()]
        never_lost = [model for model, column in zip(models, wins.T, strict=True) if not column.any()]
        said = [
            f"{_some(names)} never {what}."
            for names, what in ((never_won, "won or tied"), (never_lost, "lost or tied"))
            if names
        ] or ["Some models never lost or tied against any of the others."]
        lines.append(
            f"{' '.join(said)} Such battles cannot show how far apart they are: the interval is open on that side, "
            "and the rating itself is finite only by a prior, one win and one loss more for each model, shared out "
            "over all others."
        )
    for group in unbounded:
        if len(group.middle) < len(group.members):
            middle = _some([models[i] for i in group.middle])
            lines.append(f"1000 is the mean of the models that won and lost among each other: {middle}.")
    return lines


def _without_rank(standings: Sequence[Standing]) -> list[str]:
    names = [standing.model for standing in standings if standing.rank is None]
    told = (
        "no interval lies apart from another" if len(names) == len(standings) else "their intervals overlap all others"
    )
    return [f"No rank for {_some(names)}: {told}, so more battles are needed."] if names else []


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# -- battles -------------------------------------------------------------------------------------------------------


@dataclass
class Collected:
    """All battles, and the rows that are none: rows = len(battles) + len(dropped)."""

    battles: list[Battle] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)  # file, row, reason
    notes: list[str] = field(default_factory=list)

    @property
    def sources(self) -> dict[str, int]:
        return dict(Counter(battle.source for battle in self.battles).most_common())

    def take(self, battles: Iterable[Battle], dropped: Iterable[tuple[int, str]], file: Path) -> None:
        self.battles += battles
        self.dropped += [{"file": str(file), "row": row, "reason": reason} for row, reason in dropped]

    def show(self) -> list[str]:
        """Lines for a terminal: how many of what, and what was left out."""
        parts = ", ".join(f"{count:,} {named(source, count)}" for source, count in self.sources.items())
        lines = [f"battles   {len(self.battles):,}: {parts}"]
        for (file, reason), count in Counter((d["file"], d["reason"]) for d in self.dropped).most_common():
            lines.append(f"dropped   {count:,} of {Path(file).name}: {reason}")
        return lines + [f"note      {note}" for note in self.notes]


def named(source: str, count: int) -> str:
    """("people", 2) -> votes of people"""
    many = "" if count == 1 else "s"
    known = {"people": f"vote{many} of people", "same answer": f"tie{many} where both said the same"}
    return known.get(source) or (f"verdict{many} of {source}" if source.startswith("judge-") else f"of {source}")


def collect(runs: Mapping[str, RunFolder], *, votes: Path | None, battles: Path | None) -> Collected:
    """The votes of people, the verdicts of pairwise judges in these runs by name, a file of votes of either kind.

    Raises ConfigError and DataError.
    """
    found = Collected()
    databases = [votes] if votes and votes.exists() else []
    if battles and is_database(battles):
        databases += [battles] if votes is None or battles.resolve() != votes.resolve() else []
    elif battles:
        file = read_votes(battles)
        found.take(file.battles, file.dropped, battles)
    for path in databases:
        with Votes(path, read_only=True) as there:
            found.take(*there.battles(), path)
    for name, run in runs.items():
        _take_verdicts(found, name, run)
    return found


def _take_verdicts(found: Collected, name: str, run: RunFolder) -> None:
    """Verdicts of judges on a run's answers beside another's, without those of judges that failed their canaries."""
    judgements, problems = read_judgements(run)
    if problems:  # verdicts that are missing would change the ratings
        raise DataError(str(problems[0]))
    for judged in judgements.values():
        if "wins" not in judged.results:
            continue
        folder = run.evals / f"judge-{judged.name}"
        if judged.results["valid"] is False:
            found.notes.append(f"{folder.name} is left out: that judge failed its canaries.")
            continue
        when, other = (folder / "samples.jsonl").stat().st_mtime, judged.results["judge"]["against"]
        battles, dropped = [], []
        for row, sample in enumerate(read_jsonl(folder / "samples.jsonl"), start=1):
            try:
                if name == other:
                    raise ValueError("a model against itself")
                battles.append(
                    Battle(
                        model_a=checked_name(name),
                        model_b=checked_name(other),
                        winner={1.0: "model_a", 0.0: "model_b", 0.5: TIE}[sample["score"]],
                        judge=one_line(judged.name, 100),
                        tstamp=when,
                        instruction=str(sample["instruction"]),
                        input=str(sample["input"]),
                        response_a=str(sample["response"]),
                        response_b=str(sample["other_response"]),
                        source=folder.name,
                    )
                )
            except (KeyError, TypeError, ValueError) as error:
                reason = str(error) if type(error) is ValueError else "without a verdict"
                dropped.append((row, reason))
        found.take(battles, dropped, folder / "samples.jsonl")


# -- the evaluation --------------------------------------------------------------------------------------------------


def check(settings: EvaluateSettings) -> None:
    """Raises ConfigError where there are no battles and nothing that would make some, MachineError without choix."""
    if importlib.util.find_spec("choix") is None:
        raise missing_extra("choix", "arena")
    run, file = RunFolder(Path(settings.run).absolute()), settings.eval.battles
    if file and not Path(file).is_file():
        raise ConfigError(f"eval.battles={file}: no such file (votes of the Chatbot Arena, or an arena.sqlite)")
    judged = (settings.judge.model or settings.judge.replay) and (settings.eval.against or settings.judge.against)
    judgements, _ = read_judgements(run)
    if not (file or judged or judgements or (run.path.parent / NAME).exists()):
        raise ConfigError(NOTHING)


def evaluate(bench: Bench) -> Outcome:
    """Rate the run among all models that have battles. Raises ConfigError where there are none."""
    from ift.evaluation.results import Outcome, Score, package_versions

    settings = bench.settings.eval
    ours = bench.run.path.resolve().name
    opponents = _judged_opponents(bench)
    file = Path(settings.battles) if settings.battles else None
    runs = {ours: bench.run} | {opponent.name: opponent.run for opponent in opponents}
    found = collect(runs, votes=bench.run.path.parent / NAME, battles=file)
    found.battles = _first(found.battles, settings.limit)
    if not found.battles:
        raise ConfigError(NOTHING)
    ranked = leaderboard(found.battles)
    shown = {ours, *(opponent.name for opponent in opponents)}
    scores = []
    for place, standing in enumerate(ranked.standings):
        first = standing.model in shown or place < HEADLINES
        rated = Score(
            task=standing.model,
            metric="rating",
            value=standing.rating,
            n=standing.battles,
            low=standing.low,
            high=standing.high,
            headline=first,
        )
        part = replace(rated, low=None, high=None, headline=False)
        scores.append(rated)
        scores.append(replace(part, metric="rank", value=standing.rank, higher_is_better=False))
        share = replace(part, low=standing.win_low, high=standing.win_high)
        scores.append(replace(share, metric="win_rate", value=standing.win_rate))
        scores.append(replace(part, metric="elo", value=standing.elo))
    counted = ", ".join(f"{count:,} {named(source, count)}" for source, count in found.sources.items())
    notes = [
        f"{len(found.battles):,} battles: {counted}.",
        f"Ratings are relative: the mean of {len(ranked.standings)} models is 1000, and 400 points are odds of "
        "10 to 1. Elo depends on the order of the battles; ratings do not.",
        *found.notes,
        *ranked.notes,
    ]
    if ours not in {standing.model for standing in ranked.standings}:
        notes.append(f"{ours} itself is in none of these battles.")
    if found.dropped:
        bench.folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(bench.folder / "dropped.jsonl", found.dropped)
        notes.append(f"{len(found.dropped):,} rows were no battles: dropped.jsonl names each and says why.")
    versions = package_versions("choix", "scipy")
    if file:
        versions[file.name] = "sha256 " + hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    about = {
        "battles": len(found.battles),
        "sources": found.sources,
        "dropped": dict(Counter(row["reason"] for row in found.dropped)),
        **ranked.to_json(),
    }
    return Outcome(scores, (battle.to_json() for battle in found.battles), versions, notes, about)


def _first(battles: Sequence[Battle], limit: int | None) -> list[Battle]:
    """The first so many of each source."""
    seen: Counter[str] = Counter()
    kept = []
    for battle in battles:
        seen[battle.source] += 1
        if limit is None or seen[battle.source] <= limit:
            kept.append(battle)
    return kept


def _judged_opponents(bench: Bench) -> list[Answers]:
    """Those that eval.against and judge.against name; a pairwise judge, where one is set, compares with each first."""
    settings = bench.settings.judge
    pairwise, is_set = settings.reply == "winner", bool(settings.model or settings.replay)
    places = list(dict.fromkeys([*bench.settings.eval.against, *([settings.against or ""] if pairwise else [])]))
    opponents = [open_answers(place) for place in filter(None, places)]
    names = Counter([bench.run.path.resolve().name, *(opponent.name for opponent in opponents)])
    if (twice := names.most_common(1)[0])[1] > 1:
        raise ConfigError(
            f"eval.against: two models are called {twice[0]} (rename a folder, so that they are told apart)"
        )
    if opponents and is_set:
        if not pairwise:
            raise ConfigError(f"judge={settings.name}: does not compare answers (add judge=pairwise)")
        answers = open_answers(bench.run.path)
        for place in filter(None, places):
            limit = settings.limit if bench.settings.eval.limit is None else bench.settings.eval.limit
            if bench.judge_pairs(answers, replace(settings, against=place, limit=limit)) is None:
                raise ConfigError("judge.dry_run=true: nothing was asked, so there is nothing to rate (leave it out)")
    return opponents


def show_leaderboard(ranked: Leaderboard) -> list[str]:
    """The table for a terminal, win rates beside it where they fit."""
    width = max(5, *(len(standing.model) for standing in ranked.standings))
    lines = [f"rank  {'model':<{width}}  rating  95 % interval   battles  win rate    elo"]
    for s in ranked.standings:
        ends = between(s.low, s.high, ".0f") or "–"
        lines.append(
            f"{s.rank or '–':>4}  {s.model:<{width}}  {s.rating:>6.0f}  {ends:<14}  {s.battles:>7,}"
            f"  {s.win_rate:>8.1%}  {s.elo:>5.0f}"
        )
    if len(ranked.standings) <= HEADLINES:
        lines += ["", f"{'won against':<{width + 6}}" + "".join(f"{k:>7}" for k in range(1, len(lines)))]
        for k, (standing, shares) in enumerate(zip(ranked.standings, ranked.win_rates, strict=True), start=1):
            cells = "".join(f"{'–' if share is None else f'{share:.0%}':>7}" for share in shares)
            lines.append(f"{k:>4}  {standing.model:<{width}}{cells}")
    return [*lines, *(f"note      {note}" for note in ranked.notes)]
