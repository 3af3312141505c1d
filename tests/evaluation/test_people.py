"""Ratings survive what a file and a person can do to them, and go through a spreadsheet and back unchanged."""

import csv
import json
import random
import subprocess
import sys

import pytest

from ift.errors import DataError
from ift.evaluation.answers import Answer
from ift.evaluation.people import (
    DANGEROUS,
    UNNAMED,
    Rating,
    Ratings,
    checked_rater,
    harmless,
    rater_means,
    rater_pairs,
    read_csv,
    restored,
    right_share,
    star_count,
    write_csv,
)
from tests.running import ROOT

ROWS = [Answer(f"task {i}", "", "right", f"said {i}") for i in range(3)]


def test_the_last_line_on_an_answer_counts_and_each_is_on_disk_at_once(tmp_path):
    ratings = Ratings(tmp_path / "r.jsonl")
    ratings.set("a", Rating("right", 5))
    ratings.set("b", Rating("wrong", comment="no"))
    ratings.set("a", Rating("partly", 3))
    assert Ratings(tmp_path / "r.jsonl", read_only=True).raters[""] == {
        "a": Rating("partly", 3),
        "b": Rating("wrong", comment="no"),
    }
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_undo_names_what_it_takes_back_also_after_a_restart(tmp_path):
    path = tmp_path / "r.jsonl"
    ratings = Ratings(path)
    ratings.set("a", Rating("right"), "anna")
    ratings.set("a", Rating("wrong"), "ben")
    ratings.set("a", Rating("partly"), "anna")
    ratings.set("a", Rating("partly"), "anna")  # no change: nothing is written
    first, of_ben, newest = (line["id"] for line in lines_of(path))
    assert not ratings.undo("anna", of_ben)  # another rater's
    assert not ratings.undo("anna", first)  # not the newest on its answer
    assert not ratings.undo("anna", "nothing of that id")
    assert ratings.undo("anna", newest)
    assert ratings.undo("anna", newest)  # sent twice, done once
    again = Ratings(path)
    assert again.raters == {"anna": {"a": Rating("right")}, "ben": {"a": Rating("wrong")}}
    assert again.undo("anna", first)
    assert again.raters == {"anna": {"a": Rating()}, "ben": {"a": Rating("wrong")}}
    assert len(lines_of(path)) == 5  # nothing is taken out of the file
    assert ratings.undo("anna", first)  # the other process has done it


def test_a_change_says_what_it_changes_so_that_a_stale_page_wipes_nothing(tmp_path):
    ratings, other = Ratings(tmp_path / "r.jsonl"), Ratings(tmp_path / "r.jsonl")  # two servers on one run
    assert ratings.change("anna", "a", {"verdict": (None, "right")}, id="1")
    assert other.change("anna", "a", {"stars": (None, 4)}, id="2")  # of another field: both hold
    assert not other.change("anna", "a", {"verdict": (None, "wrong")}, id="3")  # it is right by now
    assert ratings.change("anna", "a", {"verdict": (None, "right")}, id="4")  # it is so already
    ratings.catch_up()
    assert ratings.raters == other.raters == {"anna": {"a": Rating("right", 4)}}
    assert [line["id"] for line in lines_of(tmp_path / "r.jsonl")] == ["1", "2"]
    assert ratings.changes == [("anna", "a")] * 2
    with pytest.raises(ValueError, match="stars must be"):
        ratings.change("anna", "a", {"stars": (4, 6)}, id="5")


def test_a_change_that_is_sent_twice_is_done_once_whatever_came_between(tmp_path):
    ratings = Ratings(tmp_path / "r.jsonl")
    assert ratings.change("anna", "a", {"verdict": (None, "right")}, id="1")
    assert ratings.undo("anna", "1")
    assert ratings.change("anna", "a", {"verdict": (None, "right")}, id="1")  # the reply to the first was lost
    assert ratings.rating("anna", "a") == Rating()
    assert len(lines_of(tmp_path / "r.jsonl")) == 2


def test_ratings_of_earlier_releases_are_those_of_a_rater_without_a_name(tmp_path):
    path = tmp_path / "r.jsonl"
    old = [{"key": "a", "verdict": "right"}, {"key": "b", "verdict": "wrong", "stars": 2}, {"key": "a", "undo": True}]
    path.write_text("".join(json.dumps(line | {"unix_time": 1.0}) + "\n" for line in [*old, {**old[0], "stars": 1}]))
    ratings = Ratings(path)  # the undo took back the newest line, whatever its key
    assert ratings.raters == {"": {"a": Rating("right", 1), "b": Rating()}}
    assert [*ratings.steps] == ["#1", "#4"]
    assert ratings.undo("", "#4")
    assert ratings.rating("", "a") == Rating("right")
    ratings.set("a", Rating("wrong"), "anna")
    assert ratings.raters["anna"] == {"a": Rating("wrong")}
    assert ratings.rating("", "a") == Rating("right")


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    ratings = Ratings(tmp_path / "r.jsonl")
    ratings.set("a", Rating("right"))
    Ratings(tmp_path / "other.jsonl").set("b", Rating("wrong"))
    (tmp_path / "other.jsonl").replace(tmp_path / "r.jsonl")
    ratings.set("c", Rating("partly"))
    assert ratings.raters == {"": {"b": Rating("wrong"), "c": Rating("partly")}}


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    ratings = Ratings(tmp_path / "r.jsonl")
    ratings.set("a", Rating("right"))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            ratings.set("b", Rating("wrong"))
    assert len(lines_of(tmp_path / "r.jsonl")) == 1
    assert ratings.raters == {"": {"a": Rating("right")}}
    ratings.set("b", Rating("wrong"))
    assert Ratings(tmp_path / "r.jsonl").raters == ratings.raters


WRITER = """
import sys
from pathlib import Path
from ift.evaluation.people import Rating, Ratings
ratings = Ratings(Path(sys.argv[1]))
for i in range(int(sys.argv[3])):
    assert ratings.change(sys.argv[2], f"key {i}", {"stars": (None, 1 + i % 5)}, id=f"{sys.argv[2]} {i}")
    print(i, flush=True)
"""


def test_processes_that_write_at_once_and_are_killed_lose_nothing_that_was_confirmed(tmp_path):
    path = tmp_path / "r.jsonl"

    def start(rater, n):
        command = [sys.executable, "-c", WRITER, str(path), rater, str(n)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(ROOT / "src")})

    killed, whole = start("killed", 10_000), start("whole", 100)
    for _ in range(60):
        confirmed = int(killed.stdout.readline())
    killed.kill()
    killed.communicate(timeout=20)
    assert whole.communicate(timeout=60)[0].splitlines()[-1] == "99"
    raters = Ratings(path).raters
    assert raters["whole"] == {f"key {i}": Rating(stars=1 + i % 5) for i in range(100)}
    assert all(raters["killed"][f"key {i}"] == Rating(stars=1 + i % 5) for i in range(confirmed + 1))


def test_an_answer_counts_once_however_many_rated_it(tmp_path):
    raters = {"anna": {"a": Rating("right", 5), "b": Rating("wrong")}, "ben": {"a": Rating("partly"), "c": Rating()}}
    assert rater_means(raters, right_share) == {"a": 0.75, "b": 0.0}
    assert rater_means(raters, star_count) == {"a": 5.0}


def test_agreement_of_two_raters_is_that_of_scikit_learn():
    said = random.Random(1)
    verdicts = ["right", "partly", "wrong"]
    one = {str(i): Rating(said.choice(verdicts), said.randint(1, 5)) for i in range(80)}
    other = {key: Rating(r.verdict if said.random() < 0.6 else said.choice(verdicts), None) for key, r in one.items()}
    other["50"] = Rating(stars=3)
    [pair] = rater_pairs({"": other, "anna": one})
    both = [key for key in one if other[key].verdict]
    assert (pair.one, pair.other, pair.what, pair.n) == (UNNAMED, "anna", "verdicts", 79)
    assert pair.same == sum(one[key].verdict == other[key].verdict for key in both) / 79
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    kappa = metrics.cohen_kappa_score(
        *[[verdicts.index(ratings[key].verdict) for key in both] for ratings in (other, one)], weights="quadratic"
    )
    assert pair.kappa == pytest.approx(kappa)


@pytest.mark.parametrize("name", [3, None, "x" * 61, "a\x00b", "\u202eanna"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="a rater's name must be"):
        checked_rater(name)


def test_a_name_is_the_same_however_it_was_typed():
    assert checked_rater("  Zoe\u0308   K. ") == "Zo\u00eb K."
    assert checked_rater(UNNAMED) == checked_rater(" ") == ""


def test_half_a_line_is_cut_off_and_the_next_rating_begins_a_line(tmp_path):
    path = tmp_path / "r.jsonl"
    Ratings(path).set("a", Rating("right"))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "b", "verd')
    assert Ratings(path, read_only=True).raters[""] == {"a": Rating("right")}
    Ratings(path).set("b", Rating("wrong"))
    assert path.read_bytes().startswith(whole)
    assert Ratings(path, read_only=True).raters[""] == {"a": Rating("right"), "b": Rating("wrong")}


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        '{"key": 3}',
        '{"key": "a", "verdict": "great"}',
        '{"key": "a", "verdict": ["right"]}',
        '{"key": "a", "stars": 6}',
        '{"key": "a", "stars": true}',
        '{"key": "a", "comment": 4}',
        '{"key": "a", "rater": 4}',
        "not json",
        "[" * 10_000,
    ],
)
def test_a_line_that_is_no_rating_is_named(tmp_path, line):
    (tmp_path / "r.jsonl").write_text('{"key": "a", "verdict": "right"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"r.jsonl:2: not a rating \(delete this line\)"):
        Ratings(tmp_path / "r.jsonl")


def test_a_csv_and_back_is_the_same(tmp_path):
    given = {
        "": {
            ROWS[0].key: Rating("right", 5, "=2+2 is fine"),
            ROWS[2].key: Rating(None, None, "'quoted', \"so\"\nnext"),
        },
        "=anna": {ROWS[0].key: Rating("wrong")},
    }
    assert write_csv(tmp_path / "r.csv", ROWS, given) == 2
    assert read_csv(tmp_path / "r.csv", ROWS) == given


def test_no_cell_of_a_csv_is_a_formula(tmp_path):
    said = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "plain", "", "a=1"]
    rows = [Answer(text or "x", text, text, text) for text in said]
    write_csv(tmp_path / "r.csv", rows, {"": {row.key: Rating(comment=row.response) for row in rows}})
    with (tmp_path / "r.csv").open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [restored(harmless(text)) for text in said] == said
    assert all(restored(harmless(mark + "x")) == mark + "x" for mark in DANGEROUS)


def test_a_spreadsheets_habits_are_read(tmp_path):
    key = ROWS[1].key
    text = f"\ufeffkey,verdict,stars,comment,extra\r\n{key},Right,4.0,good,1\r\n,,,,\r\n"
    (tmp_path / "r.csv").write_text(text, encoding="utf-8")
    assert read_csv(tmp_path / "r.csv", ROWS) == {"": {key: Rating("right", 4, "good")}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", r'r.csv:1: no column "key"'),
        ("key,verdict,stars,comment\nnope,right,,\n", "r.csv:2: rates an answer that this run does not have"),
        ("key,verdict,stars,comment\nKEY,great,,\n", "r.csv:2: verdict must be right, partly, wrong or empty"),
        ("key,verdict,stars,comment\nKEY,,4.5,\n", "r.csv:2: stars must be 1, 2, 3, 4, 5 or empty"),
        ("key,verdict,stars,comment\nKEY,,many,\n", "r.csv:2: stars must be 1, 2, 3, 4, 5 or empty"),
        ("key,verdict,stars,comment\nKEY,,nan,\n", "r.csv:2: stars must be"),
        ("key,verdict,stars,comment\nKEY,,," + "x" * 5001 + "\n", "r.csv:2: comment must be"),
        ("key,verdict,stars,comment\nKEY,,," + "x" * 200_000 + "\n", "r.csv:2: comment must be"),
        ("key,verdict,stars,comment\nKEY,,," + "x" * 1_000_001 + "\n", "not a CSV in UTF-8"),
        (b"\xff\xfe\x00", "not a CSV in UTF-8"),
    ],
)
def test_a_csv_that_is_wrong_is_refused_with_its_line(write, text, message):
    text = text.replace("KEY", ROWS[0].key) if isinstance(text, str) else text
    with pytest.raises(DataError, match=message):
        read_csv(write("r.csv", text), ROWS)


def test_lines_say_when(tmp_path):
    Ratings(tmp_path / "r.jsonl").set("a", Rating("right"))
    assert json.loads((tmp_path / "r.jsonl").read_text())["unix_time"] > 1.7e9
