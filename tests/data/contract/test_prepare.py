import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest

from ift.data.contract.prepare import prepare
from ift.data.reading.rows import Row
from ift.data.show import show_details, show_report
from ift.errors import ConfigError, DataError
from ift.run import RunFolder, read_json, read_jsonl
from ift.settings import FractionSettings
from ift.text.templates import Segment, Template
from ift.text.tokenizer_files import read_tokenizer
from tests.text import kinds

NO_INPUT_LEFT_OUT = Template("whole", (Segment("{instruction}{input}"), Segment("{output}", supervised=True)))
TEMPLATE = Template("small", (Segment("Q:{instruction}\nA:"), Segment("{output}", supervised=True)))


def rows(n, length=1, first=0):
    """Rows of 8 tokens with TEMPLATE in bytes: two digits of instruction, one x."""
    return [{"instruction": f"{i:02}", "input": "", "output": length * "x"} for i in range(first, first + n)]


@pytest.fixture
def prepared(byte_tokenizer, settings_of, write):
    """prepared(records, **changes to data settings): what `prepare` makes of a file that holds them."""

    def prepared(records, *, context_length=64, split_seed=1, run=None, template=TEMPLATE, also=(), **changes):
        settings = settings_of("data=json", "data.path=set.below", "data.split=random").data
        tokenizer = changes.pop("tokenizer", byte_tokenizer)
        path = str(write("rows.json", records))
        settings = dataclasses.replace(settings, path=[path, *also] if also else path, split_seed=split_seed, **changes)
        return prepare(settings, template, tokenizer, context_length=context_length, run=run)

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

    assert train(split_seed=1) == train(split_seed=1) != train(split_seed=2)
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
    digests = b"".join(row.digest for name in ("train", "test", "val") for row in data.rows[name])
    assert report["fingerprint"] == hashlib.sha256(digests).hexdigest()


def test_the_report_is_shown_in_lines_a_person_reads(prepared):
    lines = list(show_report(prepared([*rows(20), None], max_dropped=0.5).report))
    assert lines == [
        "data      21 rows in = 20 kept + 1 dropped; train 17, test 2, validation 1",
        "          dropped 1: null, not an object with instruction and output (see rejected.jsonl)",
        "tokens    160 (25% supervised), a row p50 8, p90 8, p99 8, max 8 of 64",
        f"prompt    small {TEMPLATE.hash}, response only in the loss",
        "twins     2 pairs compared, no near twins",
    ]


def test_a_run_keeps_its_report_and_what_was_dropped(prepared, tmp_path):
    run = RunFolder(tmp_path / "run")
    data = prepared([*rows(20), {"instruction": "é"}], max_dropped=0.5, run=run)
    assert read_json(run.data_report) == data.report
    lines = list(data.rows["test"].lines())  # as they are written into test.jsonl
    assert [json.loads(line) for line in lines] == [row.to_json() for row in data.rows["test"]]
    (rejected,) = read_jsonl(run.rejected)
    assert (rejected["row"], rejected["raw"]) == (21, {"instruction": "é"})


def test_more_dropped_rows_than_max_dropped_stop_the_run_and_are_kept_all_the_same(prepared, tmp_path):
    records = [*rows(198), None, None]
    assert prepared(records, max_dropped=0.01).report["dropped"] == 2  # exactly the share that may go
    run = RunFolder(tmp_path / "run")
    with pytest.raises(DataError, match=r"rows.json:199: null, .*; 3 of 201 rows cannot be used .*max_dropped=0.01"):
        prepared([*records, None], max_dropped=0.01, run=run)
    assert [row["row"] for row in read_jsonl(run.rejected)] == [199, 200, 201]
    assert not run.data_report.exists()


def test_no_usable_row_at_all_is_an_error_whatever_max_dropped_says(prepared):
    with pytest.raises(DataError, match="2 of 2 rows cannot be used"):
        prepared([None, None], max_dropped=1.0)


def test_a_row_that_is_too_long_follows_the_policy(prepared, tmp_path):
    records = [*rows(20), {"instruction": 30 * "a", "output": 40 * "x"}]  # 75 tokens for a context of 64
    run = RunFolder(tmp_path / "run")
    assert prepared(records, max_dropped=0.1, run=run).report["dropped_by_reason"] == {"too long": 1}
    assert [(row["row"], row["reason"]) for row in read_jsonl(run.rejected)] == [(21, "75 tokens, more than 64")]
    with pytest.raises(DataError, match=r"rows.json:21: 75 tokens, more than 64 \(data.too_long=drop leaves it out; "):
        prepared(records, too_long="error")
    for policy, what in (("truncate_prompt", "prompt"), ("truncate_response", "response")):
        cut = prepared(records, too_long=policy, run=run)
        (listed,) = read_jsonl(run.cut)
        assert (listed["row"], listed["cut"], listed["tokens"], listed["lost"]) == (21, what, 75, 11)
        assert not run.rejected.exists()  # what the check before it left is gone
        assert cut.report["truncated"] == {what: 1}
        assert cut.report["length"]["max"] == 64
        assert cut.report["supervised_ends"] == (20 if policy == "truncate_response" else 21)


def test_dropped_turns_are_counted_listed_and_gone_from_the_stored_row(prepared, tmp_path):
    roles = ("user", "assistant") * 3
    messages = [{"role": role, "content": f"{i}{10 * 'x'}"} for i, role in enumerate(roles)]
    records = [
        {"messages": messages},
        *({"messages": [{**m, "content": f"{i}?"} for m in messages[:2]]} for i in range(20)),
    ]
    run = RunFolder(tmp_path / "run")
    data = prepared(records, too_long="drop_turns", run=run, split="positional")
    (listed,) = read_jsonl(run.cut)
    # three turns of 2 + 11 + 3 + 11 tokens and two ends: 83, of which two turns fit into 64
    assert listed == {"file": listed["file"], "row": 1, "cut": "turns", "tokens": 83, "lost": 28, "turns_lost": 1}
    assert (data.report["truncated"], data.report["turns_lost"], data.report["length"]["max"]) == ({"turns": 1}, 1, 55)
    assert data.rows["train"][0].history == (("2xxxxxxxxxx", "3xxxxxxxxxx"),)
    assert f"          1 rows with whole turns dropped, 1 in all (see {run.cut})" in show_report(
        data.report, data.folder
    )


def test_which_end_of_a_prompt_goes_is_said_and_given_where_no_prompt_is_cut_an_error(prepared, tmp_path):
    records = [*rows(20), {"instruction": 70 * "a" + "?", "output": "x"}]
    cut = prepared(records, too_long="truncate_prompt", truncate="start")
    assert cut.report["truncated"] == {"prompt start": 1}
    assert "          1 rows with the start of the prompt cut (see cut.jsonl)" in show_report(cut.report)
    cut = prepared(records, too_long="truncate_prompt")
    assert "          1 rows with the end of the prompt cut; data.truncate=start keeps it (see cut.jsonl)" in (
        list(show_report(cut.report))
    )
    with pytest.raises(
        ConfigError, match=r"data.truncate=end: no prompt is cut .*\(add data.too_long=truncate_prompt\)"
    ):
        prepared(records, truncate="end")


def test_a_refusal_for_length_names_what_keeps_a_part_and_where_the_rows_are(prepared, tmp_path):
    run = RunFolder(tmp_path / "run")
    records = [{"instruction": 90 * "a", "output": "x"}, *rows(20)]
    with pytest.raises(DataError) as caught:
        prepared(records, too_long="truncate_response", run=run)
    assert str(caught.value).endswith(
        f"rows.json:1: 96 tokens, more than 64: the prompt alone fills the context; 1 of 21 rows cannot be used "
        f"and are in {run.rejected} (data.too_long=truncate_prompt keeps a part; "
        "or raise data.max_dropped=0.01)"
    )
    with pytest.raises(
        DataError, match=r"cannot be used and are in .*/rows-[0-9a-f]{20}/rejected.jsonl \(data.too_long="
    ):
        prepared(records)  # without a run folder, they are in the cache


def test_what_to_do_about_a_row_ends_the_line(prepared):
    with pytest.raises(DataError, match=r"; 1 of 1 rows .* \(it has: .*; set data.fields.output=answer\)$"):
        prepared([{"instruction": "a", "answer": "b"}], also=[])
    good = [{"instruction": f"a{i}", "output": "b"} for i in range(20)]
    with pytest.raises(DataError, match=r"; 1 of 21 .* data.fields.output=answer; or raise data.max_dropped=0\)$"):
        prepared([*good, {"instruction": "a", "answer": "b"}], also=[], max_dropped=0.0)


def test_answers_of_one_word_are_a_hint_where_they_are_many(prepared):
    def told(one, more):
        data = prepared([*rows(one), *({"instruction": f"{i}?", "output": "of more words"} for i in range(more))])
        return [about["rows"] for name, about in data.report["warnings"].items() if "one word" in name]

    assert told(24, 0) == []  # fewer than 25
    assert told(30, 70) == [30]
    assert told(29, 71) == []  # of less than 30 %


def test_max_length_is_a_limit_below_the_context(prepared):
    data = prepared([*rows(20), *rows(5, length=2)], max_length=8, max_dropped=0.5)
    assert (data.report["kept"], data.report["dropped"], data.report["max_length"]) == (20, 5, 8)


@pytest.mark.parametrize("key", ["max_length", "pad_to"])
def test_a_length_beyond_the_context_is_an_error_of_the_settings(prepared, key):
    with pytest.raises(ConfigError, match=f"data.{key}=65: the model's context is 64"):
        prepared(rows(20), batching="padded", **{key: 65})
    prepared(rows(20), batching="padded", **{key: 64})


def test_a_width_to_pad_to_is_refused_where_nothing_is_padded(prepared):
    with pytest.raises(ConfigError, match=r"data\.pad_to=64: nothing is padded \(add data\.batching=padded\)"):
        prepared(rows(20), pad_to=64)


def test_splits_may_be_ready_made_and_take_nothing_from_the_training_rows(prepared, write):
    val, test = write("val.json", rows(3)), write("test.json", rows(4))
    data = prepared(rows(20, first=20), val_path=str(val), test_path=str(test), split="positional")
    assert [row.file for row in data.rows["val"]] == 3 * [str(val)]
    assert [row.file for row in data.rows["test"]] == 4 * [str(test)]
    assert [row.number for row in data.rows["train"]] == list(range(1, 21))
    assert data.report["rows_in"] == 27


def test_one_ready_made_split_leaves_its_part_to_the_others(prepared, write):
    data = prepared(rows(95), test_path=str(write("test.json", rows(4))))
    assert data.report["splits"] == {"train": 89, "test": 4, "val": 6}  # 85 : 5


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
        prepare(settings, TEMPLATE, byte_tokenizer, context_length=64)


def test_a_file_wins_over_the_hub_and_the_demo(prepared):
    data = prepared(rows(20), hub="nobody/nothing", demo_rows=100)
    assert data.report["rows_in"] == 20


def test_preparing_the_rows_changes_nothing_in_their_file(prepared, tmp_path):
    prepared(rows(20))
    assert json.loads((tmp_path / "rows.json").read_text()) == rows(20)


def test_equal_rows_count_once_and_are_listed_or_are_all_kept(prepared, tmp_path):
    records, run = [*rows(20), *rows(2), {**rows(1)[0], "output": "y"}], RunFolder(tmp_path / "run")
    data = prepared(records, run=run)
    assert (data.report["rows_in"], data.report["kept"], data.report["merged"]) == (23, 21, 2)
    file = str(tmp_path / "rows.json")
    assert [(row["row"], row["reason"]) for row in read_jsonl(run.rejected)] == [
        (21, f"merged: equal to {file}:1"),
        (22, f"merged: equal to {file}:2"),
    ]
    assert "20 kept" not in next(show_report(data.report))
    assert next(show_report(data.report)).startswith("data      23 rows in = 21 kept + 0 dropped + 2 merged; ")
    kept = prepared(records, duplicates="keep").report
    assert (kept["kept"], kept["merged"]) == (23, 0)


SENTENCE = "Name the capital city of the country that lies to the north of France and the south of "


def twins(n):
    """n pairs of prompts, alike in all but their last letters."""
    return [{"instruction": 12 * f"{i:03} " + SENTENCE + end, "output": "x"} for i in range(n) for end in "ab"]


def test_near_twins_stay_together_in_a_clustered_split_and_are_counted_as_leaks_in_another(prepared, tmp_path):
    run = RunFolder(tmp_path / "run")
    data = prepared(twins(30), split="clustered", twins=0.97, context_length=200, run=run)
    assert data.report["twins"] == {"rows": 60, "clusters": 30, "largest": 2}
    assert data.report["leaks"] == {"test": 0, "val": 0}
    assert not run.leaks.exists()
    data = prepared(twins(30), split="positional", twins=0.97, context_length=200, run=run)
    assert data.report["leaks"] == {"test": 1, "val": 0}  # row 51 trains, its twin 52 is tested; 57 and 58 ... 60 not
    (leak,) = read_jsonl(run.leaks)
    assert (leak["split"], leak["row"], leak["twin_row"]) == ("test", 52, 51)
    assert (leak["text"], leak["twin_text"]) == (f"…{SENTENCE[-50:]}b | ", f"…{SENTENCE[-50:]}a | ")
    assert data.report["leaking"] == [leak]
    lines = list(show_report(data.report, data.folder))
    assert lines[-4].endswith(f"1 test and 0 validation rows have one in training (see {run.leaks})")
    assert lines[-3].startswith("leak      test ")
    assert 0.97 < leak["similarity"] < 1
    assert prepared(twins(30), split="positional", twins=None, context_length=200).report["leaks"]["test"] == 0


def test_ready_made_splits_that_overlap_are_reported_with_their_pairs(prepared, write, tmp_path):
    run = RunFolder(tmp_path / "run")
    test = write("test.json", [*rows(3, first=5), *rows(2, first=90)])
    data = prepared(rows(30), test_path=str(test), run=run)
    assert data.report["merged"] == 0  # equal rows across splits are a leak, and no reason to lose one of them
    train = {row.number for row in data.rows["train"]}
    assert [row.number for row in data.rows["clean_test"]][-2:] == [4, 5]
    pairs = [(leak["row"], leak["twin_row"], leak["similarity"]) for leak in read_jsonl(run.leaks)]
    assert pairs == [(i, i + 5, 1.0) for i in (1, 2, 3) if i + 5 in train]
    assert data.report["leaks"]["test"] == len(pairs) >= 2


def test_weights_say_how_often_an_epoch_sees_the_rows_of_a_file(prepared, write):
    more = str(write("more.json", rows(40, first=50)))
    data = prepared(rows(40), also=[more], fractions=FractionSettings(1, 0, 0), weights=[2.0, 0.25])
    seen = Counter((row.file == more, row.number) for row in data.rows["train"])
    assert [seen[False, n] for n in range(1, 41)] == 40 * [2]
    assert sorted(seen[True, n] for n in range(1, 41)) == 30 * [0] + 10 * [1]
    assert (data.report["splits"]["train"], data.report["rows_an_epoch"]) == (80, 90)
    assert [row.number for row in data.rows["train"]] == [example.row for example in data.examples["train"]]


def test_training_rows_that_share_thirteen_words_with_an_evaluation_are_listed(prepared, write, tmp_path):
    words = [f"word{i}" for i in range(20)]
    asked = json.dumps({"question": " ".join(words), "choices": ["a", "b"]})
    evaluation = write("evaluation.jsonl", f"{asked}\n{asked}\n")
    records = [
        *rows(20),
        {"instruction": " ".join(words[3:16]), "output": "x"},
        {"instruction": " ".join(words[3:15]), "output": "x"},
    ]
    run = RunFolder(tmp_path / "run")
    data = prepared(records, against=[str(evaluation)], context_length=200, run=run)
    assert data.report["overlaps"] == 1
    assert [(row["row"], row["evaluation_row"]) for row in read_jsonl(run.overlaps)] == [(21, 0), (21, 1)]


def test_a_system_text_that_the_template_has_no_place_for_is_not_left_out_in_silence(prepared):
    records = [*rows(20), {**rows(1)[0], "system": "Be brief."}, {**rows(1)[0], "input": "x"}]
    reasons = prepared(records, max_dropped=0.5).report["dropped_by_reason"]
    assert reasons == {
        "the prompt template small has no place for its system": 1,
        "the prompt template small has no place for its input": 1,
    }


def test_another_format_in_the_same_file_is_dropped_with_the_way_out(prepared):
    records = [*rows(20), {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    data = prepared(records, max_dropped=0.5)
    assert list(data.report["dropped_by_reason"]) == [
        "messages, in a file of alpaca rows (give each kind a file of its own: data.path=[A,B])"
    ]
    assert data.report["files"][0]["format"] == "alpaca"


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("a <|endoftext|> b", "spells <|endoftext|>, which stays ordinary text"),
        ("a\u200bb", "invisible or control characters"),
        ("key: AKIA" + 16 * "Q", "what looks like a secret key"),
        ("write to me@example.com", "an e-mail address"),
        (450 * "A", "400 characters without a break (encoded data?)"),
    ],
)
def test_what_a_person_should_look_at_is_counted_and_the_row_is_kept(prepared, text, warning):
    data = prepared([*rows(20), {"instruction": text, "output": "x"}], context_length=1000)
    (about,) = data.report["warnings"].values()
    assert data.report["warnings"] == {warning: {"rows": 1, "first": [21], "example": about["example"]}}
    assert about["example"].strip("…") in f"{text} | \nx" or about["example"] == "not shown"
    assert data.report["kept"] == 21
    shown = "\n".join(show_report(data.report))
    assert f"look at   1 row: {warning} (row 21: " in shown
    assert "AKIA" not in shown


def test_a_long_word_is_looked_through_once_and_not_from_each_of_its_letters_on(prepared):
    """With an open pattern this would take ten billion steps."""
    row = {"instruction": 150_000 * "a" + " @", "output": "x"}
    assert len(prepared([*rows(20), row], context_length=200_000).report["warnings"]) == 1


PASSAGE = "What does the passage of row {} say of the harbour?"


def test_every_column_is_used_as_something_or_named_with_an_example(prepared):
    records = [{**row, "context": PASSAGE.format(i), "id": i, "note": None} for i, row in enumerate(rows(20), start=1)]
    for record in records:
        record["response"] = record.pop("output")
        del record["input"]
    report = prepared(records, template=NO_INPUT_LEFT_OUT, context_length=100).report
    assert report["files"][0]["format"] == "dolly"
    assert report["files"][0]["columns"] == [
        {"name": "instruction", "used": "instruction", "rows": 20},
        {"name": "context", "used": "input", "rows": 20},
        {"name": "id", "used": None, "rows": 20, "why": "labels, numbers, names or links", "example": "1"},
        {"name": "note", "used": None, "rows": 0, "why": "empty"},
        {"name": "response", "used": "output", "rows": 20},
    ]
    assert "columns   not used: id (ift check shows what is in them)" in list(show_report(report))
    details = list(show_details(report))
    assert "          column context: input, 20 rows" in details
    assert "          column id: not used, 20 rows, labels, numbers, names or links: 1" in details


def test_the_columns_of_flat_messages_are_those_of_the_file(prepared):
    records = []
    for i in range(20):
        about = {"message_tree_id": f"t{i}", "lang": "en"}
        records.append({"message_id": f"q{i}", "parent_id": None, "text": f"{i}+1?", "role": "prompter", **about})
        records.append({"message_id": f"a{i}", "parent_id": f"q{i}", "text": f"{i + 1}", "role": "assistant", **about})
    report = prepared(records).report
    assert [(each["name"], each["used"], each["rows"]) for each in report["files"][0]["columns"]] == [
        ("message_id", "messages", 40),
        ("parent_id", "messages", 20),
        ("text", "messages", 40),
        ("role", "messages", 40),
        ("message_tree_id", "messages", 40),
        ("lang", None, 40),
    ]
    with pytest.raises(DataError, match=r"one message of a tree, whose others do not stand beside it; 40 of 40 rows"):
        prepared([*records[::2], *records[1::2]])


def test_a_column_that_reads_like_a_part_of_the_prompt_stops_the_run_unless_it_is_left_out(prepared, tmp_path):
    records = [{**row, "passage": PASSAGE.format(i)} for i, row in enumerate(rows(20))]
    with pytest.raises(
        DataError, match=r'rows.json: column "passage" is not used, and reads like a part of the prompt'
    ):
        prepared(records)
    report = prepared(records, ignore=["passage"]).report
    about = report["files"][0]["columns"][3]
    assert (about["name"], about["used"], about["why"]) == ("passage", None, "left out by data.ignore")


@pytest.mark.parametrize("change", [{"ignore": ["imput"]}, {"fields": "imput"}])
def test_a_column_that_is_named_and_stands_nowhere_is_an_error(prepared, settings_of, change):
    if "fields" in change:
        change = {"fields": dataclasses.replace(settings_of().data.fields, input="imput")}
    with pytest.raises(DataError, match=r"imput\]?: no row of \S+rows.json has it \(nearest: input\)"):
        prepared(rows(20), **change)


def test_rows_that_the_file_itself_leaves_out_are_counted_and_stop_nothing(prepared, tmp_path):
    run = RunFolder(tmp_path / "run")
    records = [{**row, "weight": i % 2} for i, row in enumerate(rows(40))]
    report = prepared(records, max_dropped=0.0, run=run).report
    assert (report["rows_in"], report["kept"], report["dropped"]) == (40, 20, 20)
    assert report["dropped_by_reason"] == {'"weight" is 0: the file says that the row is not to be learnt': 20}
    assert [each["row"] for each in read_jsonl(run.rejected)] == list(range(1, 41, 2))
    with pytest.raises(DataError, match=r"rows.json:41: null, .*; 1 of 41 rows cannot be used"):
        prepared([*records, None], max_dropped=0.0)
    with pytest.raises(DataError, match="every row is marked as not to be learnt"):
        prepared([{**row, "weight": 0} for row in rows(20)])


def test_what_a_form_leaves_out_of_rows_is_counted(prepared):
    replies = [{"text": "b", "role": "assistant"}, {"text": "c", "role": "assistant", "rank": 0}]
    records = [{"prompt": {"text": f"{i:02}", "role": "prompter", "replies": replies}} for i in range(20)]
    report = prepared(records).report
    assert report["repaired"] == {"replies of a tree that are not on its best-ranked path, and not used": 20}
    assert any(line.endswith("path, and not used: 20") for line in show_report(report))


def test_the_messages_of_a_tree_that_stand_one_a_row_are_one_row(prepared):
    records = [
        {"message_id": f"{i}{role}", "parent_id": parent, "message_tree_id": f"{i}", "text": f"{i:02}", "role": role}
        for i in range(20)
        for role, parent in (("prompter", None), ("assistant", f"{i}prompter"))
    ]
    report = prepared(records).report
    assert (report["rows_in"], report["kept"], report["files"][0]["format"]) == (20, 20, "oasst")


def test_the_categories_of_the_rows_are_counted(prepared):
    data = prepared([{**row, "category": "even" if i % 2 == 0 else "odd"} for i, row in enumerate(rows(25))])
    assert data.report["categories"] == {"even": 13, "odd": 12}


def test_the_histogram_counts_every_row(prepared):
    report = prepared([*rows(20), *rows(5, length=30)]).report
    assert sum(report["histogram"]["rows"]) == 25
    assert len(report["histogram"]["edges"]) == len(report["histogram"]["rows"]) + 1
    assert (report["histogram"]["rows"][0], report["histogram"]["rows"][-1]) == (20, 5)


def test_the_hash_of_the_report_changes_with_the_data_and_not_with_the_day(prepared):
    assert prepared(rows(20)).hash == prepared(rows(20)).hash != prepared(rows(21)).hash


def test_the_seed_leaks_by_position_and_not_in_clusters(settings_of, byte_tokenizer):
    path = Path(__file__).parents[4] / "shared" / "data" / "seed_instructions_1100.json"
    if not path.exists():
        pytest.skip(f"{path.name}: not found (the seed's rows are no part of the repository)")
    for split, leaks in (("positional", {"test": 11, "val": 10}), ("clustered", {"test": 0, "val": 0})):
        settings = settings_of("data=json", f"data.path={path}", f"data.split={split}", "data.split_seed=1").data
        report = prepare(settings, NO_INPUT_LEFT_OUT, byte_tokenizer, context_length=1024).report
        assert report["leaks"] == leaks
        assert report["splits"] == {"train": 935, "test": 110, "val": 55}


def test_rows_that_a_template_cannot_carry_are_rejected_in_the_order_of_the_file(prepared, tmp_path):
    run, system = RunFolder(tmp_path / "run"), {"instruction": "a", "output": "b", "system": "c"}
    prepared([system, None, *rows(10), system, {"instruction": "a"}], max_dropped=0.5, run=run)
    reasons = [(line["row"], line["reason"][:40]) for line in read_jsonl(run.rejected)]
    assert reasons == [
        (1, "the prompt template small has no place f"),
        (2, "null, not an object with instruction and"),
        (13, "the prompt template small has no place f"),
        (14, 'no "output" (it has: instruction; set da'),
    ]


def test_plain_texts_are_compared_by_what_they_say():
    """Nothing stands before them: by that they would all be twins."""
    texts = [Row("", output=f"{i} {i * i} {i**3}", file="f.json", number=i) for i in range(3)]
    assert len({row.prompt for row in texts}) == 3


def test_a_limit_takes_the_first_usable_rows_and_counts_the_others_as_dropped(prepared, tmp_path, write):
    """24 rows, of which the third cannot be used and two are equal: 10 stay, of the first 12. Test rows stay whole."""
    run = RunFolder(tmp_path / "run")
    records = [*rows(2), {"instruction": "a"}, *rows(2), *rows(17, first=2), *rows(2, first=50)]
    tests = str(write("tests.json", rows(3, first=90)))
    data = prepared(records, limit=10, max_dropped=0.1, run=run, test_path=tests)
    report = data.report
    assert report["rows_in"] == 27 == report["kept"] + report["dropped"] + report["merged"]
    assert (report["kept"], report["dropped"], report["merged"]) == (13, 12, 2)
    assert report["splits"]["test"] == 3
    assert sorted(row.number for name in ("train", "val") for row in data.rows[name]) == [1, 2, *range(6, 14)]
    assert report["dropped_by_reason"]["after the first rows that data.limit=10 keeps"] == 11
    rejected = read_jsonl(run.rejected)
    assert len(rejected) == report["dropped"] + report["merged"]
    assert rejected[-1] == {"file": data.rows["train"][0].file, "row": 24, "reason": rejected[-1]["reason"]}
    assert prepared(records, limit=10**6, max_dropped=0.1).report["kept"] == 21


def test_rows_that_the_tokenizer_writes_in_another_way_are_used_and_counted(prepared, tmp_path):
    qwen = read_tokenizer(kinds.folder_of(tmp_path, "qwen"))
    decomposed = {"instruction": "Ra\u0308der", "output": "u\u0308ber"}
    report = prepared([*rows(20), decomposed], tokenizer=qwen).report
    assert (report["kept"], report["encoder"]) == (21, {"library": "tiktoken", "compared_rows": 2})
    (warning, about), *_ = report["warnings"].items()
    assert (warning, about["rows"], about["first"]) == (
        "has characters that the model's tokenizer writes in another way", 1, [21]
    )  # fmt: skip
    lines = "\n".join(show_report(report))
    assert "tokens by tiktoken, the same as by the library tokenizers on 2 rows" in lines


def test_rows_to_which_tiktoken_gives_other_tokens_are_all_encoded_by_the_library(prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("IFT_CACHE_DIR", str(tmp_path / "cache"))  # where the verdict stays
    folder = kinds.folder_of(tmp_path, "smollm2")
    right, wrong = read_tokenizer(folder), read_tokenizer(folder)
    exact, right._fast = wrong._fast, None
    wrong._fast = type(exact)(exact.encoding, normalise=str.lower, words={}, raw=False, lacks=None)
    records = [*rows(20), *({"instruction": f"Die Tür {i}", "output": "é"} for i in range(20))]
    first = prepared(records, tokenizer=wrong, twins=None, cache_dir=str(tmp_path / "a"))
    second = prepared(records, tokenizer=right, twins=None, cache_dir=str(tmp_path / "b"))
    assert first.report["encoder"] == {"library": "tokenizers", "compared_rows": 0}
    assert "tokens by the library tokenizers" in "\n".join(show_report(first.report))
    assert [e.ids.tolist() for e in first.examples["train"]] == [e.ids.tolist() for e in second.examples["train"]]
