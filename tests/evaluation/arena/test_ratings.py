"""Ratings against formulas written out here, vote files that lie, votes that stay, and the command as it is typed."""

import gzip
import json
import math
import random
import sqlite3
import sys

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from scipy.optimize import minimize

from ift.entry import settings_from
from ift.errors import ConfigError, DataError, MachineError
from ift.evaluation.arena import ratings as engine
from ift.evaluation.arena.battles import BOTH_BAD, Battle, read_votes, write_votes
from ift.evaluation.arena.ratings import (
    bradley_terry,
    collect,
    leaderboard,
    online_elo,
    points,
    show_leaderboard,
)
from ift.evaluation.arena.votes import Shown, Votes
from ift.evaluation.statistics import UNIT, mean_interval
from ift.evaluation.subject import Bench
from ift.run import RunFolder, read_json, read_jsonl, write_json, write_jsonl
from ift.settings import EvaluateSettings
from tests.evaluation.judge.judge_server import JudgeServer
from tests.running import ROOT
from tests.tiny_run import make_run

NAMES = ["ant", "bee", "cat", "dog", "eel"]


def tournament(seed, *, games=400, names=NAMES, spread=1.0, ties=0.2):
    """Battles between models whose strengths are known, with their strengths."""
    rng = random.Random(seed)
    strength = {name: rng.gauss(0, spread) for name in names}
    battles = []
    for i in range(games):
        a, b = rng.sample(names, 2)
        wins = rng.random() < 1 / (1 + math.exp(strength[b] - strength[a]))
        winner = rng.choice(["tie", BOTH_BAD]) if rng.random() < ties else "model_a" if wins else "model_b"
        battles.append(Battle(a, b, winner, tstamp=float(i)))
    return battles, strength


def ratings(battles, **options):
    return {s.model: s.rating for s in leaderboard(battles, rounds=2, **options).standings}


def by_gradient(battles):
    """Bradley-Terry as the Arena's own code states it: logistic loss on base-10 odds, L-BFGS from zeros, ties half."""
    names = sorted({b.model_a for b in battles} | {b.model_b for b in battles})
    a = np.array([names.index(b.model_a) for b in battles])
    b = np.array([names.index(battle.model_b) for battle in battles])
    y = np.array([{"model_a": 1.0, "model_b": 0.0}.get(battle.winner, 0.5) for battle in battles])

    def loss(r):
        z = math.log(10) * (r[a] - r[b])
        p = 1 / (1 + np.exp(-z))
        gradient = np.zeros(len(r))
        np.add.at(gradient, a, math.log(10) * (p - y))
        np.add.at(gradient, b, -math.log(10) * (p - y))
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).sum(), gradient

    found = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B", options={"gtol": 1e-9, "ftol": 1e-15})
    return {name: 400 * r + 1000 for name, r in zip(names, found.x, strict=True)}


# -- ratings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "games", "spread"), [(1, 60, 0.5), (2, 400, 1.0), (3, 3000, 1.0), (4, 3000, 3.0)])
def test_bradley_terry_is_what_the_arenas_own_formula_gives(seed, games, spread):
    battles, _ = tournament(seed, games=games, spread=spread)
    assert ratings(battles) == pytest.approx(by_gradient(battles), abs=0.05)


def test_many_models_that_seldom_meet_are_rated_to_the_same_precision():
    names = [f"m{i}" for i in range(40)]
    battles, _ = tournament(5, games=1500, names=names)
    assert ratings(battles) == pytest.approx(by_gradient(battles), abs=0.05)


def test_elo_is_the_loop_that_the_arena_wrote_down():
    battles, _ = tournament(6, games=2000)
    table = {}
    for b in battles:
        ra, rb = table.setdefault(b.model_a, 1000), table.setdefault(b.model_b, 1000)
        ea, eb = 1 / (1 + 10 ** ((rb - ra) / 400)), 1 / (1 + 10 ** ((ra - rb) / 400))
        sa = 1 if b.winner == "model_a" else 0 if b.winner == "model_b" else 0.5
        table[b.model_a] += 4 * (sa - ea)
        table[b.model_b] += 4 * (1 - sa - eb)
    assert online_elo(battles) == pytest.approx(table, abs=1e-9)
    assert online_elo(battles[::-1]) != pytest.approx(table, abs=0.5)  # it depends on the order
    shuffled = random.Random(0).sample(battles, len(battles))  # the leaderboard goes by time
    assert {s.model: s.elo for s in leaderboard(shuffled, rounds=2).standings} == pytest.approx(table, abs=1e-9)


def test_ten_wins_to_one_are_400_points_and_a_tie_is_half_a_win_of_each():
    ten = [Battle("a", "b", "model_a")] * 10 + [Battle("b", "a", "model_a")]
    assert ratings(ten) == pytest.approx({"a": 1200, "b": 800}, abs=1e-6)
    # 3 wins and 2 ties are 4 points to 1: odds of 4
    ties = [Battle("a", "b", "model_a")] * 3 + [Battle("b", "a", "tie"), Battle("a", "b", BOTH_BAD)]
    found = ratings(ties)
    assert found["a"] - found["b"] == pytest.approx(400 * math.log10(4), abs=1e-6)


def test_order_names_sides_and_doubling_change_no_rating():
    battles, _ = tournament(7)
    plain = ratings(battles)
    assert ratings(random.Random(1).sample(battles, len(battles))) == pytest.approx(plain, abs=1e-9)
    assert ratings(battles * 2) == pytest.approx(plain, abs=1e-6)
    other = {"model_a": "model_b", "model_b": "model_a"}
    turned = [Battle(b.model_b, b.model_a, other.get(b.winner, b.winner)) for b in battles]
    assert ratings(turned) == pytest.approx(plain, abs=1e-9)
    renamed = dict(zip(NAMES, ["zoe", "yak", "fox", "gnu", "ape"], strict=True))
    again = ratings([Battle(renamed[b.model_a], renamed[b.model_b], b.winner) for b in battles])
    assert {name: again[renamed[name]] for name in NAMES} == pytest.approx(plain, abs=1e-6)
    assert sum(plain.values()) / len(plain) == pytest.approx(1000)


def test_known_strengths_lie_in_their_intervals_95_times_of_100():
    inside = []
    for seed in range(200):
        battles, strength = tournament(seed, games=300, names=NAMES[:4], spread=0.7, ties=0.0)
        mean = sum(strength.values()) / 4
        for s in leaderboard(battles, rounds=100).standings:
            true = 1000 + 400 / math.log(10) * (strength[s.model] - mean)
            inside.append(s.low <= true <= s.high)
    assert len(inside) == 800
    assert np.mean(inside) == pytest.approx(0.95, abs=0.04)


def test_intervals_shrink_with_the_root_of_the_battles_and_hold_the_rating():
    battles, _ = tournament(8, games=300)
    wide, narrow = leaderboard(battles), leaderboard(battles * 16)
    for a, b in zip(wide.standings, narrow.standings, strict=True):
        assert a.model == b.model
        assert a.low < a.rating < a.high
        assert (a.high - a.low) / (b.high - b.low) == pytest.approx(4, rel=0.2)


def test_ranks_are_shared_where_intervals_overlap():
    battles = [Battle("a", "b", "model_a"), Battle("b", "a", "model_a")] * 50
    battles += (
        [Battle("a", "c", "model_a")] * 45 + [Battle("c", "b", "model_a")] * 5 + [Battle("b", "c", "model_a")] * 45
    )
    battles += [Battle("c", "a", "model_a")] * 5
    assert {s.model: s.rank for s in leaderboard(battles).standings} == {"a": 1, "b": 1, "c": 3}


def votes(**results):
    """votes(ab=3, ba=1): a won three times, b once."""
    return [Battle(pair[0], pair[1], "model_a") for pair, times in results.items() for _ in range(times)]


def standing(found):
    return {s.model: s for s in found.standings}


def test_after_one_vote_nobody_has_a_rank_and_each_interval_is_open_on_one_side():
    found = leaderboard(votes(ab=1))
    a, b = standing(found)["a"], standing(found)["b"]
    assert (a.rank, b.rank) == (None, None)
    assert (a.high, b.low) == (None, None)
    # the share of wins is Beta(2, 1): its 2.5 % quantile is 0.158, odds of 0.188, and half of the distance is a's
    assert a.low == pytest.approx(1000 + 200 * math.log10(0.1581 / 0.8419), abs=40)  # 500 draws
    assert a.low < 1000 < b.high
    assert found.notes[-1] == "No rank for a, b: no interval lies apart from another, so more battles are needed."
    lines = show_leaderboard(found)
    assert lines[1].startswith("   –  a")
    assert f"at least {a.low:.0f}" in lines[1]
    assert f"at most {b.high:.0f}" in lines[2]


@pytest.mark.parametrize(("wins", "ranks"), [(3, (None, None)), (20, (1, 2))])
def test_a_model_that_won_every_battle_has_a_rank_once_the_battles_separate_it(wins, ranks):
    found = leaderboard(votes(ab=wins))
    assert tuple(s.rank for s in found.standings) == ranks
    lowest = 0.025 ** (1 / (wins + 1))  # of Beta(wins + 1, 1)
    assert found.standings[0].low == pytest.approx(1000 + 200 * math.log10(lowest / (1 - lowest)), abs=40)
    assert found.standings[0].high is None
    assert "finite only by a prior" in found.notes[0]


def test_an_unbeaten_model_leaves_the_intervals_of_the_others_closed():
    even = votes(bc=15, cb=10, bd=12, db=12, cd=9, dc=14)
    found = leaderboard(even + votes(ab=3, ec=0, ce=2))
    table = standing(found)
    assert table["a"].high is None
    assert table["a"].low is not None
    assert table["e"].low is None
    assert table["e"].high is not None
    assert any(
        note == "1000 is the mean of the models that won and lost among each other: b, c, d." for note in found.notes
    )
    without = standing(leaderboard(even))
    for name in "bcd":
        assert (table[name].low, table[name].high) == pytest.approx((without[name].low, without[name].high), abs=25)
        assert table[name].rating == pytest.approx(without[name].rating, abs=15)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 20, 100])
def test_the_interval_of_few_battles_holds_the_true_distance_in_95_of_100(n):
    """Every possible result of n battles of two models, weighed by its chance, over many true distances."""
    found = [standing(leaderboard(votes(ab=k, ba=n - k), rounds=300)) for k in range(0, n + 1, max(1, n // 20))]
    ends = [(s["a"].low or -math.inf, s["a"].high or math.inf) for s in found]
    covered = []
    for distance in np.linspace(-300, 300, 61):
        p = 1 / (1 + 10 ** (-distance / 400))
        chances = np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(0, n + 1, max(1, n // 20))])
        inside = np.array([low <= 1000 + distance / 2 <= high for low, high in ends])
        covered.append((chances @ inside) / chances.sum())
    assert np.mean(covered) >= 0.94
    assert min(covered) >= 0.8  # where one result more or less decides; Wilson's interval has the same dips


def test_a_model_that_never_wins_gets_a_finite_rating_and_a_warning():
    battles = [Battle("gpt2", "big", "model_b")] * 20 + [
        Battle("big", "mid", "model_a"),
        Battle("mid", "big", "model_a"),
    ]
    found = leaderboard(battles)
    assert all(math.isfinite(s.rating) for s in found.standings)
    assert found.standings[-1].model == "gpt2"
    assert standing(found)["gpt2"].low is None
    assert found.notes[0].startswith("gpt2 never won or tied.")
    assert "one win and one loss more" in found.notes[0]
    # 4 to 0 becomes 5 to 1
    assert ratings([Battle("x", "y", "model_a")] * 4)["x"] == pytest.approx(1000 + 200 * math.log10(5), abs=1e-6)


def test_groups_that_never_met_are_told_apart():
    found = leaderboard([*votes(ab=40, ba=4, dc=6, cd=5), Battle("c", "d", "tie")])
    assert "a, b; c, d" in found.notes[0]
    table = standing(found)
    for pair in ("ab", "cd"):
        assert sum(table[name].rating for name in pair) == pytest.approx(2000)
    assert {name: s.rank for name, s in table.items()} == {"a": 1, "b": 2, "c": None, "d": None}
    assert "No rank for d, c: their intervals overlap all others" in found.notes[-1]
    (note,) = leaderboard([Battle("a", "b", "tie"), Battle("b", "c", "tie")]).notes
    assert note.startswith("No rank for a, b, c")


def test_win_rates_count_ties_half_and_say_where_two_never_met():
    battles = [Battle("a", "b", "model_a")] * 2 + [Battle("b", "a", "tie")] * 2 + [Battle("b", "c", "tie")]
    found = leaderboard(battles)
    assert found.standings[0].model == "a"
    place = {s.model: i for i, s in enumerate(found.standings)}
    assert found.win_rates[place["a"]][place["b"]] == 0.75
    assert found.win_rates[place["b"]][place["a"]] == 0.25
    assert found.win_rates[place["a"]][place["c"]] is None
    assert found.win_rates[place["a"]][place["a"]] is None
    b = found.standings[place["b"]]
    assert (b.battles, b.win_rate) == (5, 1.5 / 5)
    known = mean_interval([0, 0, 0.5, 0.5, 0.5], UNIT)
    assert (b.win_low, b.win_high) == (known.low, known.high)
    lines = show_leaderboard(found)
    assert any("75%" in line for line in lines)
    assert all(len(line) < 120 for line in lines if not line.startswith("note"))


def test_nothing_to_rate_is_an_error():
    with pytest.raises(ConfigError, match="no battles"):
        leaderboard([])


def test_a_file_of_names_without_end_does_not_fill_the_memory():
    with pytest.raises(DataError, match="60,000 models"):
        leaderboard([Battle(f"a{i}", f"b{i}", "tie") for i in range(30_000)])


def test_without_choix_the_package_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "choix", None)
    with pytest.raises(Exception, match=r'pip install "ift\[arena\]"'):
        bradley_terry(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert points(np.zeros(2)).tolist() == [1000.0, 1000.0]


# -- files of votes ------------------------------------------------------------------------------------------------

GOOD = {
    "model_a": "gpt-4",
    "model_b": "vicuna-13b",
    "winner": "model_a",
    "judge": "arena_user_1",
    "tstamp": 1682351591.13,
}


def conversation(text):
    return [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]


@pytest.mark.parametrize("kind", ["json", "jsonl", "jsonl.gz", "csv", "parquet"])
def test_the_arenas_files_are_read_in_each_form(tmp_path, kind):
    rows = [GOOD | {"winner": w} for w in ("model_a", "model_b", "tie", "tie (bothbad)", "both_bad")]
    path = tmp_path / f"votes.{kind}"
    if kind == "parquet":
        import pyarrow
        import pyarrow.parquet

        rows = [row | {"conversation_a": conversation("x"), "category_tag": {"if": {"score": 4}}} for row in rows]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind == "csv":
        path.write_text(
            "model_a,model_b,winner,tstamp\n" + "".join(f"gpt-4,vicuna-13b,{r['winner']},5\n" for r in rows)
        )
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(text) if kind.endswith("gz") else text)
    found = read_votes(path)
    assert [b.winner for b in found.battles] == ["model_a", "model_b", "tie", BOTH_BAD, BOTH_BAD]
    assert (found.rows, found.dropped) == (5, [])
    assert found.battles[0].tstamp == (5.0 if kind == "csv" else 1682351591.13)


def test_the_older_files_say_the_winner_in_three_columns(tmp_path):
    path = tmp_path / "55k.csv"
    head = "id,model_a,model_b,prompt,winner_model_a,winner_model_b,winner_tie\n"
    path.write_text(head + "1,a,b,x,1,0,0\n2,a,b,x,0,1,0\n3,a,b,x,0,0,1\n4,a,b,x,1,1,0\n5,a,b,x,0,0,0\n")
    found = read_votes(path)
    assert [b.winner for b in found.battles] == ["model_a", "model_b", "tie"]
    assert [row for row, _ in found.dropped] == [4, 5]


def test_times_of_every_kind_are_read_and_nonsense_is_no_time(tmp_path):
    times = ["2025-07-01T00:00:00+00:00", 1751328000, "1751328000", None, "never", [1], 1e300, -5, True, {"a": 1}]
    write_jsonl(tmp_path / "v.jsonl", [GOOD | {"tstamp": t} for t in times])
    found = [b.tstamp for b in read_votes(tmp_path / "v.jsonl").battles]
    assert found == [1751328000.0] * 3 + [0.0] * 7


def test_rows_that_are_no_battles_are_counted_with_their_reasons(tmp_path):
    bad = {
        "not an object": [1, "x", None, [GOOD]],
        "no model_a or model_b": [{}, {"model_a": "a", "winner": "tie"}],
        "a model's name": [GOOD | {"model_a": v} for v in (1, "", " ", "x" * 101, "a\x1b[31m", "a\u202eb", ["a"], {})],
        "a model against itself": [GOOD | {"model_b": "gpt-4"}, GOOD | {"model_b": " gpt-4 "}],
        "winner is none": [GOOD | {"winner": w} for w in ("gpt-4", "", None, 1, True, ["model_a"], "MODEL_A")],
        "no winner": [{"model_a": "a", "model_b": "b"}],
        "the names were shown": [GOOD | {"anony": False}],
    }
    rows = [row for rows in bad.values() for row in rows]
    deep = "[" * 100 + "]" * 100
    text = "".join(json.dumps(row) + "\n" for row in (GOOD, *rows)) + f'{{"model_a": {deep}}}\n' + '{"a": Infinity}\n'
    (tmp_path / "v.jsonl").write_text(text)
    found = read_votes(tmp_path / "v.jsonl")
    assert len(found.battles) == 1
    assert found.rows == len(rows) + 3 == len(found.battles) + len(found.dropped)
    for reason, examples in bad.items():
        assert sum(count for said, count in found.reasons.items() if said.startswith(reason)) == len(examples), reason
    assert found.reasons["cannot be read"] == 2


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ConfigError, "no such file of votes"),
        (b"", DataError, "v.json"),
        (b"[]", DataError, "no rows"),
        (b'[{"a": 1}]', DataError, "no battle among 1 rows"),
        (b'{"model_a": "a", "model_b": "b", "winner": "tie"', DataError, "ends in the middle"),
        (b"\x80\x04\x95model", DataError, "v.json"),
        (b"PAR1 and nothing", DataError, "broken Parquet"),
    ],
)
def test_a_file_that_is_no_votes_is_one_line(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "v.json").write_bytes(content)
    with pytest.raises(error, match=message):
        read_votes(tmp_path / "v.json")


def test_what_is_exported_gives_the_same_leaderboard(tmp_path):
    battles, _ = tournament(9, games=100)
    assert write_votes(tmp_path / "out.jsonl", battles) == 100
    first = read_jsonl(tmp_path / "out.jsonl")[0]
    assert set(first) >= {"question_id", "model_a", "model_b", "winner", "judge", "turn", "anony", "language", "tstamp"}
    assert [turn["role"] for turn in first["conversation_a"]] == ["user", "assistant"]
    again = read_votes(tmp_path / "out.jsonl").battles
    assert leaderboard(again).to_json() == leaderboard(battles).to_json()


# -- the database --------------------------------------------------------------------------------------------------


def shown(i, a="one", b="two"):
    return Shown(f"key{i}", f"about{i}", "test split", f"Task {i}", "", a, b, "left", "right")


def test_a_vote_stands_until_it_is_undone_and_rows_are_only_added(tmp_path):
    with Votes(tmp_path / "arena.sqlite") as votes:
        for i in range(3):
            votes.show(shown(i))
        assert votes.vote("key0", "model_a") == "model_a"
        assert votes.vote("key0", "model_b") == "model_a"  # a battle has one vote: sent twice, it counts once
        assert votes.vote("key1", "tie (bothbad)") == BOTH_BAD
        assert [b.winner for b in votes.battles()[0]] == ["model_a", BOTH_BAD]
        assert votes.undo(["one", "two"]).key == "key1"
        assert votes.undo(["one", "other"]) is None  # not of these models
        assert votes.vote("key1", "model_b") == "model_b"
        assert votes.open("about2").key == "key2"
        assert votes.open("about1") is None
        for bad in ("MODEL_A", "", "draw"):
            with pytest.raises(ValueError, match="no such vote"):
                votes.vote("key2", bad)
        with pytest.raises(KeyError):
            votes.vote("key9", "tie")
        token = votes.token
    db = sqlite3.connect(tmp_path / "arena.sqlite")
    assert db.execute("SELECT winner FROM votes ORDER BY id").fetchall() == [
        ("model_a",),
        (BOTH_BAD,),
        (None,),
        ("model_b",),
    ]
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    for change in ("UPDATE votes SET winner = 'model_b'", "DELETE FROM votes", "DELETE FROM battles"):
        with pytest.raises(sqlite3.IntegrityError, match="only ever added"):
            db.execute(change)
    db.close()
    with Votes(tmp_path / "arena.sqlite") as votes:
        assert votes.token == token
        assert [b.winner for b in votes.battles()[0]] == ["model_a", "model_b"]
    assert (tmp_path / "arena.sqlite").stat().st_mode & 0o077 == 0


def test_two_processes_may_vote_at_the_same_time(tmp_path):
    path = tmp_path / "arena.sqlite"
    with Votes(path) as one, Votes(path) as two:
        for i in range(20):
            (one, two)[i % 2].show(shown(i))
            (two, one)[i % 2].vote(f"key{i}", "tie")
        assert len(one.battles()[0]) == len(two.battles()[0]) == 20


def test_a_full_disk_is_told_and_what_was_saved_stays(tmp_path):
    with Votes(tmp_path / "arena.sqlite") as votes:
        votes.show(shown(0))
        votes.vote("key0", "model_a")
        votes.db.execute(f"PRAGMA max_page_count = {votes.db.execute('PRAGMA page_count').fetchone()[0]}")

        def fill():
            for i in range(1, 100):
                votes.show(shown(i))

        with pytest.raises(MachineError, match=r"arena\.sqlite: .*full"):
            fill()
        votes.db.execute("PRAGMA max_page_count = 1000000")
        votes.show(shown(100))  # there is room again
        assert votes.vote("key100", "tie") == "tie"
        assert [b.winner for b in votes.battles()[0]] == ["model_a", "tie"]


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\0" + b"\xff" * 2000, None])
def test_a_database_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "x.sqlite"
    if content is None:
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE votes (a)")
        db.commit()
        db.close()
        content = path.read_bytes()
    else:
        path.write_bytes(content)
    for read_only in (False, True):
        with pytest.raises(DataError, match=r"x\.sqlite"):
            Votes(path, read_only=read_only)
    assert path.read_bytes() == content


def test_rows_that_no_arena_wrote_are_dropped_with_their_reason(tmp_path):
    path = tmp_path / "arena.sqlite"
    with Votes(path) as votes:
        for i, name in enumerate(["fine", "evil\x1b[2J", "two", ""]):
            votes.show(shown(i, a=name))
            votes.vote(f"key{i}", "model_a")
        votes.db.execute("INSERT INTO votes (battle, winner, judge, unix_time) VALUES (1, 'everyone', 'x', 'then')")
    found = collect({}, votes=path, battles=None)
    assert len(found.battles) == 0
    assert len(found.dropped) == 4
    assert {row["reason"] for row in found.dropped} >= {"no such winner", "a model against itself"}


# -- the evaluation ------------------------------------------------------------------------------------------------


def evaluate(warm, run, *words):
    """`python evaluate.py run=RUN eval=arena ...`, a process of its own."""
    return warm.run(str(ROOT / "evaluate.py"), f"run={run.path}", "eval=arena", "offline=true", *words, timeout=120)


def rate(run, *words):
    """The same in this process."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = settings_from(compose("evaluate", [f"run={run.path}", "eval=arena", *words]), EvaluateSettings)
    return engine.evaluate(Bench(run, settings))


def judged(run, against, scores, *, valid=True):
    """What a pairwise judge leaves in a run folder."""
    folder = run.evals / f"judge-pairwise-sage-vs-{against}"
    folder.mkdir(parents=True)
    results = {"scale": [0, 1], "mean": 0.5, "low": 0.4, "high": 0.6, "scored": 3, "rows": 3, "valid": valid}
    results |= {"wins": 1, "ties": 1, "losses": 1, "orders_agree": 1.0, "p": 1.0, "verdict": "not settled"}
    write_json(folder / "results.json", {**results, "judge": {"against": against}})
    samples = [
        {"key": str(i), "score": score, "reason": "", "instruction": f"Task {i}", "input": ""}
        | {"response": "ours", "other_response": "theirs"}
        for i, score in enumerate(scores)
    ]
    write_jsonl(folder / "samples.jsonl", samples)


def test_verdicts_of_pairwise_judges_are_battles_and_a_judge_that_failed_is_not_believed(tmp_path):
    run = RunFolder(tmp_path / "mine")
    judged(run, "other", [1.0, 0.5, 0.0, None])
    judged(run, "liar", [1.0], valid=False)
    found = collect({"mine": run}, votes=None, battles=None)
    assert [(b.model_a, b.model_b, b.winner) for b in found.battles] == [
        ("mine", "other", "model_a"),
        ("mine", "other", "tie"),
        ("mine", "other", "model_b"),
    ]
    assert [d["reason"] for d in found.dropped] == ["without a verdict"]
    assert found.notes == ["judge-pairwise-sage-vs-liar is left out: that judge failed its canaries."]


def test_the_command_rates_votes_verdicts_and_a_public_file_and_the_numbers_are_on_the_page(
    tmp_path, settings_of, warm
):
    run = make_run(tmp_path / "tuned", settings_of)
    with Votes(tmp_path / "arena.sqlite") as votes:
        for i in range(8):
            votes.show(shown(i, a="tuned", b="rival"))
            votes.vote(f"key{i}", "model_a" if i < 6 else "model_b")
    judged(run, "rival", [1.0, 0.5, 0.0])
    public = [GOOD | {"model_a": "rival", "winner": w} for w in ("model_a", "model_b")] + [{"model_a": 1}]
    write_jsonl(tmp_path / "public.jsonl", public)
    done = evaluate(warm, run, f"eval.battles={tmp_path / 'public.jsonl'}")
    assert done.returncode == 0, done.stderr
    results = read_json(run.evals / "arena/results.json")
    rating = {s["task"]: s for s in results["scores"] if s["metric"] == "rating"}
    # 6 + 1.5 of 11 battles won: the odds are 7.5 to 3.5, and the third model is even with the rival
    assert rating["tuned"]["value"] - rating["rival"]["value"] == pytest.approx(400 * math.log10(7.5 / 3.5), abs=1e-3)
    assert rating["vicuna-13b"]["value"] == pytest.approx(rating["rival"]["value"], abs=1e-3)
    assert rating["tuned"]["low"] < rating["tuned"]["value"] < rating["tuned"]["high"]
    assert results["battles"] == 13
    assert results["sources"] == {"people": 8, "judge-pairwise-sage-vs-rival": 3, "public.jsonl": 2}
    assert sum(results["dropped"].values()) == len(read_jsonl(run.evals / "arena/dropped.jsonl")) == 1
    assert len(read_jsonl(run.evals / "arena/samples.jsonl")) == 13
    page = run.report.read_text()
    assert f"{rating['tuned']['value']:.3f} ({rating['tuned']['low']:.3f} to" in page
    assert "8 votes of people" in page
    assert f"tuned                        rating               {rating['tuned']['value']:.3f}" in done.stdout


def test_a_judge_on_this_machine_makes_the_battles(tmp_path, settings_of, warm):
    run = make_run(tmp_path / "tuned", settings_of, seed=1)
    make_run(tmp_path / "rival", settings_of, seed=2)

    def reply(body):
        """For the model called 1, whichever side; rows where both say the same, and canaries, are even or lost."""
        material = json.loads(body["messages"][-1]["content"].split(">>>\n")[1].split("\n<<<")[0])
        a, b, reference = (material.get(name, "") for name in ("response_A", "response_B", "reference"))
        if reference in (a, b) and a != b:
            return "A" if a == reference else "B"
        return "A" if "model 1" in a else "B" if "model 1" in b else "tie"

    with JudgeServer(reply) as server:
        words = [
            "judge=pairwise",
            "judge.model=sage",
            f"judge.base_url={server.url}",
            f"eval.against=[{tmp_path}/rival]",
        ]
        done = evaluate(warm, run, *words)
    assert done.returncode == 0, done.stderr
    results = read_json(run.evals / "arena/results.json")
    assert results["sources"] == {"judge-pairwise-sage-vs-rival": 12}
    # of 12 rows, both said the reference in 6
    assert [s["win_rate"] for s in results["leaderboard"]] == [0.75, 0.25]
    assert [s["model"] for s in results["leaderboard"]] == ["tuned", "rival"]
    again = rate(run, f"eval.against=[{tmp_path}/rival]")  # no judge: what it said is read
    assert again.about["leaderboard"] == results["leaderboard"]


def test_without_any_battle_the_command_says_what_to_do(tmp_path, settings_of, warm):
    run = make_run(tmp_path / "tuned", settings_of)
    done = evaluate(warm, run)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ift: error: eval=arena: nothing to rate (vote: ift arena RUN RUN;")
    assert "eval.battles=FILE" in line
    assert len(line) <= 200


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval.battles=nowhere.json"], "nowhere.json: no such file of votes"),
        (["eval.against=[nowhere]"], "nowhere: no such run folder"),
        (["eval.against=[RUN]"], "two models are called tuned"),
        (["eval.against=[OTHER]", "judge.model=x"], "judge=score: does not compare answers"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, settings_of, words, message):
    run = make_run(tmp_path / "tuned", settings_of)
    make_run(tmp_path / "other", settings_of)
    words = [word.replace("RUN", str(run.path)).replace("OTHER", str(tmp_path / "other")) for word in words]
    with pytest.raises(ConfigError, match=message):
        rate(run, *words)
