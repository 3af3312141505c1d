import json
import math
from collections import Counter
from datetime import date

import pytest

from ift.data.reading.rows import BadRow, Dropped, NotLearnt, Reader, Row, read_stored_rows
from ift.data.reading.window import Unreadable
from ift.errors import DataError
from ift.run import read_jsonl, write_jsonl

PARTS = ("instruction", "input", "output", "system", "history", "category", "tools", "messages", "conversations")


def row_of(record, *, ignore=(), turns="error", plain=False, **fields):
    how = {"ignore": ignore, "turns": turns, "plain": plain}
    return Reader({**dict.fromkeys(PARTS), **fields}, **how).row(record, file="f", number=4)


def form_of(record):
    return Reader(dict.fromkeys(PARTS)).form_of(record)


def test_the_file_may_have_names_of_its_own():
    record = {"question": "Why?", "completion": "So.", "input": "not asked for", "kind": "short", "text": ""}
    row = row_of(record, instruction="question", input="text", output="completion", category="kind")
    assert row == Row("Why?", "", "So.", file="f", number=4, category="short")


@pytest.mark.parametrize("record", [{"input": None}, {}, {"input": ""}])
def test_a_missing_or_null_input_is_an_empty_one(record):
    assert row_of({"instruction": "a", "output": "b", **record}) == Row("a", "", "b", file="f", number=4)


def test_an_input_alone_is_a_row():
    assert row_of({"instruction": "", "input": "2+2=", "output": "4"}) == Row("", "2+2=", "4", file="f", number=4)


def test_text_is_kept_as_it_stands_white_space_included():
    record = {"instruction": " a ", "input": "\n", "output": "b\n"}
    assert row_of(record) == Row(" a ", "\n", "b\n", file="f", number=4)


def turns(*texts, names=("user", "assistant"), role="role", content="content"):
    return [{role: names[i % 2], content: text} for i, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATION = Row("And 2+2?", "", "4", file="f", number=4, system="Be brief.", history=(("1+1?", "2"),))


@pytest.mark.parametrize(
    ("record", "kind", "row"),
    [
        ({"instruction": "a", "output": "b"}, "alpaca", Row("a", "", "b", file="f", number=4)),
        (
            {"instruction": "a", "output": "b", "system": "s"},
            "alpaca",
            Row("a", "", "b", file="f", number=4, system="s"),
        ),
        ({"prompt": "a", "completion": "b"}, "prompt", Row("a", "", "b", file="f", number=4)),
        ({"messages": turns("a", "b")}, "messages", Row("a", "", "b", file="f", number=4)),
        ({"messages": [SYSTEM, *turns("1+1?", "2", "And 2+2?", "4")]}, "messages", CONVERSATION),
        ({"messages": turns("a", "b"), "prompt": "a"}, "messages", Row("a", "", "b", file="f", number=4)),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, *turns("a", "b")[1:]]},
            "messages",
            Row("a", "", "b", file="f", number=4),
        ),
        (
            {"conversations": turns("a", "b", names=("human", "gpt"), role="from", content="value")},
            "conversations",
            Row("a", "", "b", file="f", number=4),
        ),
        (
            {
                "system": "Be brief.",
                "conversations": turns(
                    "1+1?", "2", "And 2+2?", "4", names=("human", "gpt"), role="from", content="value"
                ),
            },
            "conversations",
            CONVERSATION,
        ),
    ],
)
def test_each_known_format_is_told_by_its_keys(record, kind, row):
    assert form_of(record) == kind
    assert row_of(record) == row


@pytest.mark.parametrize("record", [None, 3, "text", [], {}, {"instruction": "a"}, {"messages": "a"}, {"prompt": "a"}])
def test_anything_else_has_no_format(record):
    assert form_of(record) is None


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "turns are none, not user and assistant in turn, assistant last"),
        (turns("a"), "turns are user, not user and assistant in turn, assistant last"),
        (turns("a", "b", "c"), "turns are user, assistant, user, not user and assistant in turn, assistant last"),
        (turns("a", "b")[::-1], "turns are assistant, user, not"),
        ([SYSTEM], "turns are none, not"),
        ([*turns("a", "b"), SYSTEM], "turns are user, assistant, system, not"),
        ([3], "message 1 is a number, not an object"),
        ([{"role": "tool", "content": "x"}], "turns are tool, not user and assistant in turn, assistant last"),
        ([{"role": "narrator", "content": "x"}], "message 1 is of 'narrator', not of system, user or assistant"),
        ([{"content": "x"}], "message 1 is of null, not of"),
        ([{"role": [], "content": "x"}], "message 1 is of a list, not of"),
        ([{"role": "user", "content": None}], "message 1 is null, not text"),
        ([{"role": "user", "content": [{"type": "image"}]}], "message 1 has parts that are not text"),
        (turns("a", " "), '"output" is empty'),
        (turns("a", " ", "b", "c"), "an answer is empty"),
        (turns(" ", "a", "b", "c"), "an instruction is empty"),
    ],
)
def test_a_conversation_that_cannot_be_used_says_why(messages, reason):
    with pytest.raises(BadRow) as caught:
        row_of({"messages": messages})
    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"instruction": "a"}, 'no "output" (it has: instruction; set data.fields.output=...)'),
        (
            {"prompt": "a", "output": "b"},
            'no "instruction" (it has: prompt, output; set data.fields.instruction=prompt)',
        ),
        ({}, 'no "instruction" (it has: no fields; set data.fields.instruction=...)'),
        ({"instruction": "a", "output": None}, '"output" is null, not text'),
        ({"instruction": None, "output": "b"}, '"instruction" is null, not text'),
        ({"instruction": "a", "output": 3}, '"output" is a number, not text'),
        ({"instruction": "a", "output": 0.5}, '"output" is a number, not text'),
        ({"instruction": "a", "output": True}, '"output" is true or false, not text'),
        ({"instruction": "a", "output": ["b"]}, '"output" is a list, not text'),
        ({"instruction": "a", "input": {"b": 1}, "output": "c"}, '"input" is an object, not text'),
        ({"instruction": "a", "input": 0, "output": "c"}, '"input" is a number, not text'),
        ({"instruction": "a", "output": " \n"}, '"output" is empty'),
        ({"instruction": " ", "input": "\t", "output": "b"}, "instruction and input are empty"),
        ({"instruction": "", "output": "b"}, "instruction and input are empty"),
        (
            {"instruction": "a", "output": "\ud83d"},
            '"output" holds half a character (a lone surrogate, no text in UTF-8)',
        ),
        ({"instruction": "a", "output": "b\0c"}, '"output" holds a NUL character (is it text?)'),
        (
            {"Instruction": "a", "Answer": "b"},
            'no "output" (it has: Instruction, Answer; set data.fields.output=Answer)',
        ),
        (
            {"instruction": "a", "Answer": "b"},
            'no "output" (it has: instruction, Answer; set data.fields.output=Answer)',
        ),
        ({"instruction": "a", "output": "b", "system": 3}, '"system" is a number, not text'),
        (Unreadable("NaN is no JSON number", "{"), "NaN is no JSON number"),
        (None, "null, not an object with instruction and output"),
        (7, "a number, not an object with instruction and output"),
        ("text", "text, not an object with instruction and output"),
        (["a", "b"], "a list, not an object with instruction and output"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(record, reason):
    with pytest.raises(BadRow) as caught:
        row_of(record)
    assert str(caught.value) == reason


def test_a_name_may_differ_in_case_and_white_space():
    assert row_of({"Instruction": "a", " OUTPUT": "b"}) == Row("a", "", "b", file="f", number=4)


def test_earlier_turns_stand_in_history_and_the_input_belongs_to_the_last():
    history = [["1+1?", "2"]]
    record = {"instruction": "And?", "input": "2+2", "output": "4", "system": "Be brief.", "history": history}
    row = Row("And?", "2+2", "4", file="f", number=4, system="Be brief.", history=(("1+1?", "2"),))
    assert row_of(record) == row
    assert row_of({**record, "history": json.dumps(history)}) == row
    for wrong in ([["a"]], ["a", "b"], "a"):
        with pytest.raises(BadRow, match=r'"history" is (not a list of pairs|text, and no list)'):
            row_of({**record, "history": wrong})


def test_the_answers_of_a_conversational_prompt_are_not_learnt():
    record = {"prompt": turns("1+1?", "2", "And 2+2?"), "completion": turns("", "4")[1:]}
    row = row_of(record)
    assert (row.history, row.instruction, row.output, row.unlearnt) == ((("1+1?", "2"),), "And 2+2?", "4", (0,))
    assert row_of({**record, "completion": "4"}) == row


def test_an_input_that_was_named_beside_messages_goes_to_the_last_question():
    record = {"passage": "p", "messages": turns("a", "b", "c", "d"), "about": "s"}
    row = row_of(record, input="passage", system="about")
    assert (row.system, row.history, row.instruction, row.input, row.output) == ("s", (("a", "b"),), "c", "p", "d")


@pytest.mark.parametrize(
    ("marks", "reason"),
    [
        ({"label": False}, '"label" is false: a KTO row whose answer is not wanted (data.max_dropped=1 leaves such'),
        ({"label": "False"}, '"label" is false: a KTO row'),
        (
            {"weight": 0.5},
            '"weight" is 0.5: a row is learnt or not, 1 or 0 (data.ignore=[weight] learns every row alike)',
        ),
        ({"loss_weight": "x"}, '"loss_weight" is x: a row is learnt or not'),
        (
            {"images": ["a.png"]},
            '"images" holds something that is no text, and only text is learnt (data.ignore=[images]',
        ),
    ],
)
def test_a_mark_of_a_whole_row_is_obeyed_or_refused(marks, reason):
    with pytest.raises(BadRow) as caught:
        row_of({"prompt": "a", "completion": "b", **marks})
    assert str(caught.value).startswith(reason)
    assert row_of({"prompt": "a", "completion": "b", **marks}, ignore=marks).output == "b"


@pytest.mark.parametrize(
    "marks", [{"label": True}, {"label": "good"}, {"weight": 1.0}, {"weight": None}, {"images": []}]
)
def test_a_mark_that_says_nothing_changes_nothing(marks):
    assert row_of({"prompt": "a", "completion": "b", **marks}) == Row("a", "", "b", file="f", number=4)


@pytest.mark.parametrize(
    "marks",
    [
        {name: value}
        for name in ("train", "learn", "loss", "loss_mask", "train_on_turn", "Weight")
        for value in (0, False, "0", "false")
    ]
    + [{"masked": True}, {"masked": "1"}, {"train": False, "masked": True}],
)
def test_every_mark_of_a_message_is_one_of_a_row(marks):
    for record in ({"prompt": "a", "completion": "b"}, {"messages": turns("a", "b")}, {"question": "a", "answer": "b"}):
        with pytest.raises(NotLearnt, match="the file says that the row is not to be learnt"):
            row_of({**record, **marks})
        with pytest.raises(BadRow, match="a row is learnt or not, 1 or 0"):
            row_of({**record, next(iter(marks)): "a text"})


def test_marks_that_contradict_each_other_are_refused():
    with pytest.raises(BadRow) as caught:
        row_of({"prompt": "a", "completion": "b", "weight": 1, "train": False})
    assert str(caught.value) == (
        '"weight" says that the row is learnt, and "train" that it is not (data.ignore=[train] or data.ignore=[weight] '
        "goes by the other)"
    )


@pytest.mark.parametrize("mark", ["label", "kto_tag", "desirable", "is_chosen"])
@pytest.mark.parametrize("value", [False, 0, "0", "False"])
def test_a_mark_of_KTO_is_one_however_it_is_written(mark, value):
    with pytest.raises(BadRow, match=f'"{mark}" is false: a KTO row'):
        row_of({"prompt": "a", "completion": "b", mark: value})


def test_a_label_is_a_class_elsewhere():
    assert row_of({"text": "a b", "label": False}, plain=True).output == "a b"
    for label in (0, False):
        assert row_of({"question": "Is it so?", "answer": "no", "label": label}).output == "no"
    assert row_of({"messages": turns("Is it so?", "no"), "label": 0}).output == "no"
    with pytest.raises(BadRow, match="a KTO row"):
        row_of({"messages": turns("Is it so?", "no"), "label": False})


def test_a_conversation_of_which_nothing_is_learnt_is_one_that_the_file_leaves_out():
    with pytest.raises(NotLearnt, match="no answer of it is to be learnt"):
        row_of({"messages": [turns("a", "b")[0], {"role": "assistant", "content": "b", "weight": 0}]})


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "a", "response": "b", "chosen": None, "rejected": None},
        {"prompt": "a", "response": "b", "chosen": "", "rejected": []},
        {"messages": [], "prompt": "a", "response": "b"},
        {"messages": "[]", "prompt": "a", "response": "b"},
        {"instruction": None, "output": None, "question": "a", "answer": "b"},
        {"instruction": "", "output": "", "question": "a", "answer": "b"},
        {"prompt": "a", "completion": None, "response": "b"},
        {"prompt": "a", "response": "b", "instruction": None, "output": None, "messages": []},
        {"prompt": "a", "completion": "b", "tools": "[]", "images": "[]"},
    ],
)
def test_the_empty_columns_of_merged_tables_are_no_form(record):
    row = row_of(record)
    assert (row.instruction, row.output) == ("a", "b")


def test_an_empty_answer_is_no_other_form():
    with pytest.raises(BadRow, match='"output" is empty'):
        row_of({"instruction": "a", "input": "", "output": ""})
    assert row_of({"instruction": "", "input": "a", "output": "b"}).input == "a"
    assert row_of({"text": "a", "instruction": None, "output": None}, plain=True).output == "a"


CHOSEN = "which are not learnt as pairs (for the chosen answers alone: "


@pytest.mark.parametrize(
    ("record", "line", "fields", "ignore"),
    [
        (
            {
                "conversations": [{"from": "human", "value": "a"}],
                "chosen": {"from": "gpt", "value": "b"},
                "rejected": {"from": "gpt", "value": "c"},
            },
            "data.fields.output=chosen data.ignore=[rejected]",
            {"output": "chosen"},
            ["rejected"],
        ),
        (
            {"prompt": "a", "chosen": turns("", "b")[1:], "rejected": turns("", "c")[1:]},
            "data.fields.output=chosen data.ignore=[rejected]",
            {"output": "chosen"},
            ["rejected"],
        ),
        (
            {"prompt": "a", "chosen": turns("", "b")[1], "rejected": turns("", "c")[1]},
            "data.fields.output=chosen data.ignore=[rejected]",
            {"output": "chosen"},
            ["rejected"],
        ),
        (
            {"prompt": "a", "chosen": turns("a", "b"), "rejected": turns("a", "c")},
            "data.fields.messages=chosen data.ignore=[rejected]",
            {"messages": "chosen"},
            ["rejected"],
        ),
        (
            {"prompt": turns("a"), "chosen": turns("", "b")[1:], "rejected": turns("", "c")[1:]},
            "data.fields.messages=prompt data.fields.output=chosen data.ignore=[rejected]",
            {"messages": "prompt", "output": "chosen"},
            ["rejected"],
        ),
        (
            {"conversation_a": turns("a", "b"), "conversation_b": turns("a", "c"), "winner": "model_a"},
            "data.fields.messages=conversation_a data.ignore=[conversation_b]",
            {"messages": "conversation_a"},
            ["conversation_b"],
        ),
    ],
)
def test_what_a_line_on_preferences_says_to_type_works(record, line, fields, ignore):
    with pytest.raises(BadRow) as caught:
        row_of(record)
    assert f": {line})" in str(caught.value)
    row = row_of(record, ignore=ignore, **fields)
    assert (row.instruction, row.output) == ("a", "b")


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (
            "sql_prompt sql_context sql",
            "data.fields.instruction=sql_prompt data.fields.output=sql data.fields.input=sql_context",
        ),
        ("human bot", "data.fields.instruction=human data.fields.output=bot"),
        ("source target", "data.fields.instruction=source data.fields.output=target"),
        ("src tgt", "data.fields.instruction=src data.fields.output=tgt"),
        ("dialogue summary", "data.fields.instruction=dialogue data.fields.output=summary"),
        ("problem generated_solution", "data.fields.output=generated_solution"),
        ("content", "prompt=none data.fields.output=content"),
    ],
)
def test_what_a_line_on_other_names_says_to_type_works(columns, line):
    record = {name: f"the {name}" for name in columns.split()}
    with pytest.raises(BadRow) as caught:
        row_of(record)
    assert f"; set {line})" in str(caught.value)
    settings = dict(setting.split("=") for setting in line.replace("data.fields.", "").split())
    plain = settings.pop("prompt", None) == "none"
    assert row_of(record, plain=plain, **settings).output == record[settings["output"]]


def test_a_column_that_was_named_is_not_said_to_be_missing():
    with pytest.raises(BadRow, match=r'no "output".*set data\.fields\.output=sql'):
        row_of({"sql_prompt": "a", "sql": "b"}, instruction="sql_prompt")


@pytest.mark.parametrize("weight", [0, 0.0, "0.0"])
def test_a_row_without_weight_is_one_that_the_file_leaves_out(weight):
    with pytest.raises(NotLearnt, match='"weight" is 0: the file says that the row is not to be learnt'):
        row_of({"prompt": "a", "completion": "b", "weight": weight})


def test_text_alone_is_a_row_where_rows_may_be_plain():
    assert row_of({"text": "a b"}, plain=True) == Row("", "", "a b", file="f", number=4)
    assert row_of({"prompt": "", "completion": "b"}, plain=True) == Row("", "", "b", file="f", number=4)
    with pytest.raises(BadRow, match=r"text alone, without a prompt \(prompt=none learns the whole text\)"):
        row_of({"text": "a b"})
    with pytest.raises(BadRow, match=r'"prompt" is empty \(prompt=none learns rows without a prompt\)'):
        row_of({"prompt": "", "completion": "b"})


def test_what_a_published_form_leaves_out_is_counted():
    reader = Reader(dict.fromkeys(PARTS))
    record = {"instruction": "a", "instances": [{"input": "b", "output": "c"}, {"input": "d", "output": "e"}]}
    repairs = Counter()
    assert reader.row(record, file="f", number=4, repairs=repairs) == Row("a", "b", "c", file="f", number=4)
    assert repairs == {"instances after the first of an instruction, not used": 1}


TREE = {"role": "prompter", "text": "a", "replies": [{"role": "assistant", "text": "c"}]}


@pytest.mark.parametrize(
    ("record", "given"),
    [
        ({"instruction": "a", "instances": [{"input": "b", "output": "c"}], "doc": "d"}, "b\n\nd"),
        ({"prompt": TREE, "doc": "d"}, "d"),
        ({"input": "[|Human|] a [|AI|] c", "doc": "d"}, "d"),
    ],
)
def test_a_column_named_as_the_input_is_used_in_published_forms_too(record, given):
    assert row_of(record, input="doc") == Row("a", given, "c", file="f", number=4)
    assert row_of(record, system="doc").system == "d"


@pytest.mark.parametrize(
    "record", [{"text": "a", "doc": "d"}, {"segments": [{"label": True, "text": "a"}], "doc": "d"}]
)
@pytest.mark.parametrize("part", ["input", "system"])
def test_a_part_of_a_prompt_has_no_place_beside_text_alone(record, part):
    with pytest.raises(
        BadRow, match=rf"data.fields.{part}=doc: rows of \w+ alone have no prompt to put it into \(leave"
    ):
        row_of(record, plain=True, **{part: "doc"})


def test_a_whole_emoji_is_no_half_character():
    assert row_of(json.loads('{"instruction": "a", "output": "\\ud83d\\ude00"}')).output == "😀"


def test_two_rows_that_say_the_same_have_the_same_digest_wherever_they_stand():
    row = Row("a", "", "b", file="f", number=1)
    assert row.digest == Row("a", "", "b", file="g", number=2, category="c").digest
    others = [
        Row("a", "b", "", file="f", number=1),
        Row("a", "", "b", file="f", number=1, system="s"),
        Row("a", "", "b", file="f", number=1, history=(("c", "d"),)),
    ]
    assert len({row.digest, *(other.digest for other in others)}) == 4


def test_the_prompt_of_a_row_is_all_text_before_its_output():
    assert CONVERSATION.prompt == "Be brief. | 1+1? | 2 | And 2+2? | "
    assert Row("a", "b", "c", file="f", number=1).prompt == "a | b"
    assert Row("", "", "c", file="f", number=1).prompt == "c"  # text alone: else all such rows were twins


def test_whatever_was_dropped_can_be_written_down(tmp_path):
    raw = {"day": date(2026, 11, 21), "bytes": b"ab", "half": "\ud83d!", "é": 1, "nan": [math.nan, -math.inf]}
    write_jsonl(tmp_path / "rejected.jsonl", [Dropped("f", 1, "why", raw).to_json()])
    written = {"day": "2026-11-21", "bytes": "b'ab'", "half": "?!", "é": 1, "nan": ["NaN", "-Infinity"]}
    assert read_jsonl(tmp_path / "rejected.jsonl") == [{"file": "f", "row": 1, "reason": "why", "raw": written}]


def test_what_json_cannot_say_of_a_number_is_its_text():
    raw = Dropped("f", 1, "why", {"score": float("nan"), "of": [float("inf"), -float("inf"), 0.5]}).to_json()["raw"]
    assert raw == {"score": "NaN", "of": ["Infinity", "-Infinity", 0.5]}


def test_rows_that_a_run_kept_come_back_as_they_were(tmp_path):
    rows = [Row("a", "", "b\u2028", file="f.json", number=3, category="c"), CONVERSATION]
    write_jsonl(tmp_path / "test.jsonl", (row.to_json() for row in rows))
    assert read_stored_rows(tmp_path / "test.jsonl") == rows
    assert set(read_jsonl(tmp_path / "test.jsonl")[0]) == {
        "instruction",
        "input",
        "output",
        "file",
        "number",
        "category",
    }
    with pytest.raises(DataError, match="no such file"):
        read_stored_rows(tmp_path / "none.jsonl")


def test_the_text_of_a_row_has_each_part_once():
    assert row_of({"instruction": "a", "input": "b", "output": "c"}).text == "a | b\nc"
    assert row_of({"text": "a b"}, plain=True).text == "a b"
