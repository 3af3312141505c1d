"""metrics.jsonl read as it grows: the same numbers as read whole, whatever happens to it, and no spike is lost."""

import json
import math
import random

import numpy as np
import pytest

from ift.pages.metrics import MOST, PIECE, Metrics, column, columns_of, in_one_layout, number, parsed


def line(step, **more):
    return json.dumps({"step": step, "tokens": 100 * step, "train/loss": 1 / (step + 1), **more}) + "\n"


def whole(path, names=("train/loss",)):
    """A reader that has read all that there is."""
    metrics = Metrics(path)
    read_all(metrics)
    return metrics.curves(names)


def read_all(metrics):
    metrics.look()
    while metrics.behind:
        metrics.read()


def drawn(curves):
    return {key: value for key, value in curves.items() if key not in ("generation", "changes")}


def test_a_growing_file_gives_what_the_whole_file_gives(tmp_path):
    path, draw = tmp_path / "metrics.jsonl", random.Random(3)
    text = "".join(
        line(s, lr=draw.random(), **({"val/loss": draw.random()} if s % 7 == 0 else {})) for s in range(3000)
    )
    metrics = Metrics(path)
    for end in [*sorted(draw.sample(range(len(text)), 40)), len(text)]:
        path.write_text(text[:end])  # half-written last lines too
        read_all(metrics)
    names = ("train/loss", "lr", "val/loss")
    assert drawn(metrics.curves(names)) == drawn(whole(path, names))
    assert metrics.lines == 2999  # and the last one, which is not final
    assert metrics.damaged == 0


def test_a_bucket_has_the_least_the_mean_and_the_largest_of_its_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    losses = [3.0] * 5000
    losses[1234] = 90.0
    losses[4321] = 0.5
    path.write_text("".join(line(s, **{"train/loss": loss}) for s, loss in enumerate(losses)))
    curves = whole(path)
    loss = curves["series"]["train/loss"]
    assert len(loss["mean"]) == math.ceil(4999 / 16) + 1 <= MOST
    assert curves["axes"]["step"][:2] == [15, 31]  # 16 lines a bucket: 600 of 8 are too few
    assert loss["high"][1234 // 16] == 90.0 == max(loss["high"])
    assert loss["mean"][1234 // 16] == pytest.approx((15 * 3 + 90) / 16, abs=1e-4)
    assert loss["low"][4321 // 16] == 0.5 == min(loss["low"])
    assert curves["axes"]["step"][-1] == 4999


def test_what_is_sent_since_and_what_was_there_before_are_the_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics, had, generation = Metrics(path), {"axes": {"step": []}, "full": 0}, None
    for end in (1, 2, 30, 599, 601, 1300, 1301):
        path.write_text("".join(map(line, range(end))))
        read_all(metrics)
        same = metrics.generation == generation
        new = metrics.curves(["train/loss"], since=had["full"] if same else 0)
        steps = (had["axes"]["step"][: new["since"]] if same else []) + new["axes"]["step"]
        had, generation = {**new, "axes": {"step": steps}}, metrics.generation
        assert steps == whole(path)["axes"]["step"]
        assert len(new["axes"]["step"]) == len(new["series"]["train/loss"]["mean"])


def test_the_last_line_is_written_again_and_counts_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(1) + line(2))
    metrics = Metrics(path)
    read_all(metrics)
    assert metrics.now["step"] == 2
    assert "val/loss" not in metrics.names
    path.write_text(line(1) + line(2, **{"val/loss": 0.25}))
    read_all(metrics)
    assert "val/loss" in metrics.names
    assert metrics.least("val/loss") == (0.25, 2)
    curves = metrics.curves(["val/loss"])
    assert curves["axes"]["step"] == [1, 2]
    assert curves["series"]["val/loss"]["mean"] == [None, 0.25]


def test_a_file_that_was_cut_back_is_read_anew(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = "".join(map(line, range(50)))
    path.write_text(first)
    metrics = Metrics(path)
    read_all(metrics)
    before = metrics.generation
    cut = "".join(map(line, range(20)))
    other = "".join(line(s, **{"train/loss": 9.0}) for s in range(20, 60))  # longer than before: its size says nothing
    for text in (cut, cut + other, ""):
        path.write_text(text)
        read_all(metrics)
        assert drawn(metrics.curves(["train/loss"])) == drawn(whole(path))
    assert metrics.generation > before
    path.unlink()
    read_all(metrics)
    assert metrics.curves(["train/loss"])["axes"]["step"] == []
    assert metrics.now == {}


BROKEN = {
    "half a line": b'{"step": 3, "train/l',
    "not JSON": b"step 3, loss 2\n",
    "a list": b"[3, 4]\n",
    "no step": b'{"train/loss": 1}\n',
    "a step that is none": b'{"step": "three", "train/loss": 1}\n',
    "not UTF-8": b'{"step": 3, "a\xff": 1}\n',
    "zeros, as a disk leaves them": b"\0" * 5000 + b"\n",
    "brackets": b'{"step": 3, "a": ' + b"[" * 100_000 + b"\n",
    "a number without end": b'{"step": 3, "train/loss": ' + b"9" * 6000 + b"}\n",
    "a line without end": b'{"step": 3, "a": "' + b"x" * (3 * PIECE) + b'"}\n',
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_line_is_counted_and_the_others_are_read(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    content = "".join(map(line, range(3))).encode() + BROKEN[broken]
    path.write_bytes(content + b"".join(line(s).encode() for s in (4, 5)) if broken != "half a line" else content)
    metrics = Metrics(path)
    read_all(metrics)
    steps = metrics.curves(["train/loss"])["axes"]["step"]
    assert steps == ([0, 1, 2] if broken == "half a line" else [0, 1, 2, 4, 5])
    assert metrics.damaged == (0 if broken == "half a line" else 1)


def test_lines_in_one_layout_give_what_a_json_reader_gives():
    draw = random.Random(5)
    made = [
        {"step": s, "tokens": 10 * s, "lr": draw.choice([draw.random(), 1e-7 * s, 0, -1.5]), "b": draw.random()}
        | ({"val/loss": draw.random()} if s % 9 == 0 else {})
        | ({"b": draw.choice([None, "x", True, [1], math.nan, math.inf])} if s % 13 == 0 else {})
        for s in range(500)
    ]
    lines = [json.dumps(row).encode() for row in made]
    lines[7] = lines[7][:-3]
    lines[8] = json.dumps(made[8], separators=(",", ":")).encode()  # as another program writes it
    lines[9] = json.dumps(dict(reversed(made[9].items()))).encode()
    lines[10] = lines[10].replace(b'"lr"', b'"step"')  # a name twice: the last counts
    places, names, numbers = in_one_layout(lines)
    assert (len(places) > 350, names, numbers.shape) == (True, ["step", "tokens", "lr", "b"], (len(places), 4))
    found, damaged = columns_of(lines)
    rows = [json.loads(line) for i, line in enumerate(lines) if i != 7]
    assert damaged == 1
    for name in ("step", "tokens", "lr", "b", "val/loss"):
        np.testing.assert_array_equal(found[name], column(rows, name))


def test_what_only_looks_like_a_number_is_none():
    lines = [b'{"step": 1, "a": 2}', b'{"step": 2, "a": 1.2.3}', b'{"step": 3, "a": 4}']
    found, damaged = columns_of(lines)
    assert (found["step"].tolist(), found["a"].tolist(), damaged) == ([1, 3], [2, 4], 1)


def test_two_halves_are_no_line():
    assert parsed([b'{"step": 1', b'"train/loss": 2}', b'{"step": 2}']) == ([{"step": 2}], 2)
    assert parsed([b'{"step": {"step": 1}', b'{"step": 3}}']) == ([], 2)


@pytest.mark.parametrize("value", [True, "1", None, [1], {}, math.nan, math.inf, 10**400])
def test_what_is_no_number_is_none(value):
    assert number(value) is None
    assert np.isnan(column([{"a": value}, {"a": 1}], "a")).tolist() == [True, False]
    assert np.isnan(column([{"a": value}, {"a": "x"}], "a")).all()


def test_numbers_that_no_curve_can_show_leave_a_gap(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = ["NaN", "Infinity", "1e308", "-1e40", "0.1", '"high"', "true", "1" * 320]
    path.write_text("".join(f'{{"step": {i}, "train/loss": {v}}}\n' for i, v in enumerate(values)) + line(99))
    curves = whole(path)
    assert curves["series"]["train/loss"]["mean"][:-1] == [None] * 4 + [0.1] + [None] * 3
    json.dumps(curves, allow_nan=False)


def test_many_names_and_long_ones_are_not_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    names = {f"n{i}": i for i in range(5000)} | {"x" * 5000: 1}
    path.write_text(line(0, **names) * 3)
    metrics = Metrics(path)
    read_all(metrics)
    assert len(metrics.columns) == len(metrics.names) == 48
    assert not any(len(name) > 80 for name in metrics.names)


def test_seconds_are_those_of_the_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        line(0)
        + "".join(line(s, tokens_per_second=50.0 * s) for s in (1, 2))
        + line(3)
        + line(4, tokens_per_second=50.0)
    )
    curves = whole(path)
    assert curves["axes"]["seconds"] == [0, 2, 3, 3, 5]  # 100 tokens a step; step 3 has no speed, and was left out
    metrics = Metrics(path)
    read_all(metrics)
    assert metrics.seconds_per_step() == 1.0  # 3 s for the three steps that are final


def test_the_end_of_a_long_file_is_known_before_it_has_been_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(line, range(9000))))
    assert path.stat().st_size > 2 * PIECE
    metrics = Metrics(path)
    metrics.glance()
    assert metrics.now["step"] == 8999
    metrics.read()
    assert metrics.behind
    assert metrics.now["step"] == 8999
    read_all(metrics)
    assert metrics.now["step"] == 8999
    assert metrics.least("train/loss") == (pytest.approx(1 / 9000), 8999)


def test_the_epoch_that_begins_shows_the_steps_of_one(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line(0) + "".join(line(s, epoch=(s - 1) // 5) for s in range(1, 13)))
    metrics = Metrics(path)
    read_all(metrics)
    assert metrics.epoch == (1, 6)
    path.write_text("".join(line(s, epoch=(s - 1) // 5) for s in range(8, 13)))  # its begin is lost
    metrics = Metrics(path)
    read_all(metrics)
    assert metrics.epoch is None
