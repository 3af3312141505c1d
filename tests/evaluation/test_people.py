"""Ratings survive what a file and a person can do to them, and go through a spreadsheet and back unchanged."""

import csv
import json

import pytest

from ift.errors import DataError
from ift.evaluation.answers import Answer
from ift.evaluation.people import DANGEROUS, Rating, Ratings, harmless, read_csv, restored, write_csv

ROWS = [Answer(f"task {i}", "", "right", f"said {i}") for i in range(3)]


def test_the_last_line_on_an_answer_counts_and_each_is_on_disk_at_once(tmp_path):
    ratings = Ratings(tmp_path / "r.jsonl")
    ratings.set("a", Rating("right", 5))
    ratings.set("b", Rating("wrong", comment="no"))
    ratings.set("a", Rating("partly", 3))
    assert Ratings(tmp_path / "r.jsonl", read_only=True).now == {
        "a": Rating("partly", 3),
        "b": Rating("wrong", comment="no"),
    }
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3


def test_undo_goes_back_step_by_step_also_after_a_restart(tmp_path):
    ratings = Ratings(tmp_path / "r.jsonl")
    ratings.set("a", Rating("right"))
    ratings.set("b", Rating("wrong"))
    ratings.set("a", Rating("partly"))
    ratings.set("a", Rating("partly"))  # no change: nothing to undo
    assert ratings.undo() == "a"
    ratings.close()
    ratings = Ratings(tmp_path / "r.jsonl")
    assert ratings.now["a"] == Rating("right")
    assert [ratings.undo(), ratings.undo(), ratings.undo()] == ["b", "a", None]
    assert not any(ratings.now.values())
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 6  # nothing is taken out of the file


def test_half_a_line_is_cut_off_and_the_next_rating_begins_a_line(tmp_path):
    path = tmp_path / "r.jsonl"
    Ratings(path).set("a", Rating("right"))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "b", "verd')
    assert Ratings(path, read_only=True).now == {"a": Rating("right")}
    Ratings(path).set("b", Rating("wrong"))
    assert path.read_bytes().startswith(whole)
    assert Ratings(path, read_only=True).now == {"a": Rating("right"), "b": Rating("wrong")}


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
        "not json",
        "[" * 10_000,
    ],
)
def test_a_line_that_is_no_rating_is_named(tmp_path, line):
    (tmp_path / "r.jsonl").write_text('{"key": "a", "verdict": "right"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"r.jsonl:2: not a rating \(delete this line\)"):
        Ratings(tmp_path / "r.jsonl")


def test_a_csv_and_back_is_the_same(tmp_path):
    given = {ROWS[0].key: Rating("right", 5, "=2+2 is fine"), ROWS[2].key: Rating(None, None, "'quoted', \"so\"\nnext")}
    assert write_csv(tmp_path / "r.csv", ROWS, given) == 2
    assert read_csv(tmp_path / "r.csv", ROWS) == given


def test_no_cell_of_a_csv_is_a_formula(tmp_path):
    said = ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "plain", "", "a=1"]
    rows = [Answer(text or "x", text, text, text) for text in said]
    write_csv(tmp_path / "r.csv", rows, {row.key: Rating(comment=row.response) for row in rows})
    with (tmp_path / "r.csv").open(newline="") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert [restored(harmless(text)) for text in said] == said
    assert all(restored(harmless(mark + "x")) == mark + "x" for mark in DANGEROUS)


def test_a_spreadsheets_habits_are_read(tmp_path):
    key = ROWS[1].key
    text = f"\ufeffkey,verdict,stars,comment,extra\r\n{key},Right,4.0,good,1\r\n,,,,\r\n"
    (tmp_path / "r.csv").write_text(text, encoding="utf-8")
    assert read_csv(tmp_path / "r.csv", ROWS) == {key: Rating("right", 4, "good")}


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
