import dataclasses
import json

import pytest

from ift.data.prepare import prepare, show_report
from ift.data.prompts import Segment, Template
from ift.data.rows import fingerprint
from ift.errors import ConfigError, DataError
from ift.run import RunFolder, read_json, read_jsonl

TEMPLATE = Template("small", (Segment("Q:{instruction}\nA:"), Segment("{output}", supervised=True)))


def rows(n, length=1):
    """Rows of 8 tokens with TEMPLATE in bytes: two digits of instruction, one x."""
    return [{"instruction": f"{i:02}", "input": "", "output": length * "x"} for i in range(n)]


@pytest.fixture
def prepared(byte_tokenizer, settings_of, write):
    """prepared(records, **changes to data settings): what `prepare` makes of a file that holds them."""

    def prepared(records, *, context_length=64, seed=1, run=None, **changes):
        settings = settings_of("data=json", "data.path=set.below").data
        settings = dataclasses.replace(settings, path=str(write("rows.json", records)), **changes)
        return prepare(settings, TEMPLATE, byte_tokenizer, context_length=context_length, seed=seed, run=run)

    return prepared


def test_rows_and_examples_of_a_split_are_the_same_rows_in_the_same_order(prepared):
    data = prepared(rows(20))
    assert {name: len(part) for name, part in data.rows.items()} == {"train": 17, "test": 2, "val": 1}
    for name in ("train", "test", "val"):
        assert [row.number for row in data.rows[name]] == [example.row for example in data.examples[name]]
    everything = sorted(row.number for part in data.rows.values() for row in part)
    assert everything == list(range(1, 21))


def test_the_split_follows_the_seed_and_positional_follows_the_file(prepared):
    def train(**options):
        return [row.number for row in prepared(rows(20), **options).rows["train"]]

    assert train(seed=1) == train(seed=1) != train(seed=2)
    assert train(split="positional") == list(range(1, 18))


def test_the_report_accounts_for_every_row_and_every_token(prepared):
    records = [*rows(20), {"instruction": "a"}, {"instruction": "b"}, None, {"instruction": "c", "output": 60 * "x"}]
    data = prepared(records, max_dropped=0.5)
    report = data.report
    assert report["rows_in"] == 24 == report["kept"] + report["dropped"]
    assert report["dropped_by_reason"] == {
        'no "output" (it has: instruction; set data.fields.output=...)': 2,
        "null, not an object with instruction and output": 1,
        "too long": 1,
    }
    assert report["splits"] == {"train": 17, "test": 2, "val": 1}
    assert report["tokens"] == 20 * len("Q:00\nA:x")
    assert report["supervised_tokens"] == 20 * 2  # the x and its end
    assert report["supervised_share"] == 0.25
    assert report["supervised_ends"] == 20
    assert report["length"] == {"mean": 8.0, "p50": 8, "p90": 8, "p99": 8, "max": 8}
    assert (report["max_length"], report["tokenizer"], report["prompt"]) == (64, "bytes", "small")
    assert (report["prompt_hash"], report["prompt_masked"]) == (TEMPLATE.hash, True)
    assert report["fingerprint"] == fingerprint(row for name in ("train", "test", "val") for row in data.rows[name])


def test_the_report_is_shown_in_lines_a_person_reads(prepared):
    lines = list(show_report(prepared([*rows(20), None], max_dropped=0.5).report))
    assert lines == [
        "data      21 rows in = 20 kept + 1 dropped; train 17, test 2, validation 1",
        "          dropped 1: null, not an object with instruction and output (see rejected.jsonl)",
        "tokens    160 (25% supervised), a row p50 8, p90 8, p99 8, max 8 of 64",
        f"prompt    small {TEMPLATE.hash}, response only in the loss",
    ]


def test_a_run_keeps_its_report_its_test_rows_and_what_was_dropped(prepared, tmp_path):
    run = RunFolder.create(tmp_path / "run")
    data = prepared([*rows(20), {"instruction": "é"}], max_dropped=0.5, run=run)
    assert read_json(run.data_report) == data.report
    assert read_jsonl(run.test_rows) == [row.to_json() for row in data.rows["test"]]
    (rejected,) = read_jsonl(run.rejected)
    assert (rejected["row"], rejected["raw"]) == (21, {"instruction": "é"})


def test_more_dropped_rows_than_max_dropped_stop_the_run_and_are_kept_all_the_same(prepared, tmp_path):
    records = [*rows(198), None, None]
    assert len(prepared(records, max_dropped=0.01).dropped) == 2  # exactly the share that may go
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(DataError, match=r"rows.json:199: null, .*; 3 of 201 rows cannot be used .*max_dropped=0.01"):
        prepared([*records, None], max_dropped=0.01, run=run)
    assert [row["row"] for row in read_jsonl(run.rejected)] == [199, 200, 201]
    assert not run.data_report.exists()


def test_no_usable_row_at_all_is_an_error_whatever_max_dropped_says(prepared):
    with pytest.raises(DataError, match="2 of 2 rows cannot be used"):
        prepared([None, None], max_dropped=1.0)


def test_a_row_that_is_too_long_follows_the_policy(prepared):
    records = [*rows(20), {"instruction": 30 * "a", "output": 40 * "x"}]  # 75 tokens for a context of 64
    dropped = prepared(records, max_dropped=0.1)
    assert [(row.row, row.reason) for row in dropped.dropped] == [(21, "75 tokens, more than 64")]
    with pytest.raises(DataError, match=r"rows.json:21: 75 tokens, more than 64 \(data.too_long=drop leaves it out\)"):
        prepared(records, too_long="error")
    for policy, what in (("truncate_prompt", "prompt"), ("truncate_response", "response")):
        cut = prepared(records, too_long=policy)
        assert cut.dropped == []
        assert cut.report["truncated"] == {what: 1}
        assert cut.report["length"]["max"] == 64
        assert cut.report["supervised_ends"] == (20 if policy == "truncate_response" else 21)


def test_max_length_is_a_limit_below_the_context(prepared):
    data = prepared([*rows(20), *rows(5, length=2)], max_length=8, max_dropped=0.5)
    assert (data.report["kept"], data.report["dropped"], data.report["max_length"]) == (20, 5, 8)


@pytest.mark.parametrize("key", ["max_length", "pad_to"])
def test_a_length_beyond_the_context_is_an_error_of_the_settings(prepared, key):
    with pytest.raises(ConfigError, match=f"data.{key}=65: the model's context is 64"):
        prepared(rows(20), **{key: 65})
    prepared(rows(20), **{key: 64})


def test_splits_may_be_ready_made_and_take_nothing_from_the_training_rows(prepared, write):
    val, test = write("val.json", rows(3)), write("test.json", rows(4))
    data = prepared(rows(20), val_path=str(val), test_path=str(test), split="positional")
    assert [row.file for row in data.rows["val"]] == 3 * [str(val)]
    assert [row.file for row in data.rows["test"]] == 4 * [str(test)]
    assert [row.number for row in data.rows["train"]] == list(range(1, 21))
    assert data.rows_in == 27


def test_one_ready_made_split_leaves_its_part_to_the_others(prepared, write):
    data = prepared(rows(95), test_path=str(write("test.json", rows(4))))
    assert {name: len(part) for name, part in data.rows.items()} == {"train": 89, "test": 4, "val": 6}  # 85 : 5


def test_a_ready_made_split_of_which_nothing_is_left_is_an_error(prepared, write):
    val = write("val.json", [{"instruction": "a", "output": 99 * "x"}])
    with pytest.raises(DataError, match=r"val.json: no row of it can be used"):
        prepared(rows(20), val_path=str(val), max_dropped=0.5)


def test_rows_dropped_from_a_ready_made_split_count_too(prepared, write):
    val = write("val.json", [*rows(1), None])
    with pytest.raises(DataError, match=r"val.json:2: null.*; 1 of 22 rows cannot be used"):
        prepared(rows(20), val_path=str(val))


def test_no_source_of_rows_at_all_is_an_error_of_the_settings(settings_of, byte_tokenizer):
    settings = dataclasses.replace(settings_of("data=json").data, path=None)
    with pytest.raises(ConfigError, match=r"data.path: not set"):
        prepare(settings, TEMPLATE, byte_tokenizer, context_length=64, seed=1)


def test_a_file_wins_over_the_hub_and_the_demo(prepared):
    data = prepared(rows(20), hub="nobody/nothing", demo_rows=100)
    assert data.rows_in == 20


def test_preparing_the_rows_changes_nothing_in_their_file(prepared, tmp_path):
    prepared(rows(20))
    assert json.loads((tmp_path / "rows.json").read_text()) == rows(20)
