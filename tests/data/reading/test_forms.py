"""Which column is used as what: known forms are read whole, and what is not used is named."""

import pytest

from ift.data.reading.forms import Forms

NAMES = ("instruction", "input", "output", "system", "history", "category", "tools", "messages", "conversations")
CHAT = [{"role": "user", "content": "Add 1 and 2."}, {"role": "assistant", "content": "3"}]
LONG = "Which of the four words of row {} is not like the others?"


def plan(record, *, ignore=(), **fields):
    return Forms({**dict.fromkeys(NAMES), **fields}, ignore).plan(record)


def record(names, **values):
    return {**{name: f"the text of {name}" for name in names.split()}, **values}


@pytest.mark.parametrize(
    ("names", "form", "keys"),
    [
        ("instruction input output", "alpaca", {}),
        ("instruction context output", "alpaca", {"input": "context"}),
        ("instruction context response category", "dolly", {"input": "context", "output": "response"}),
        (
            "id system_prompt question response",
            "orca",
            {"system": "system_prompt", "instruction": "question", "output": "response"},
        ),
        ("context question answer", "question and answer", {"input": "context", "instruction": "question"}),
        ("prompt completion context system", "prompt", {"instruction": "prompt", "input": "context"}),
        ("prompt response", "prompt and response", {"output": "response"}),
        ("input output", "input and output", {"instruction": "input", "output": "output"}),
        ("inputs targets task", "inputs and targets", {"instruction": "inputs", "output": "targets"}),
        ("message_1 message_2 topic role_1", "camel", {"instruction": "message_1", "output": "message_2"}),
        ("Instruction INPUT  Output", "alpaca", {"instruction": "Instruction", "input": "INPUT", "output": "Output"}),
        ("text", "text", {"output": "text"}),
    ],
)
def test_common_forms_are_told_by_their_columns_and_read_whole(names, form, keys):
    made = plan(record(names))
    assert made.form == form
    assert {part: made.keys.get(part) for part in keys} == keys
    assert set(made.unknown) <= {"id", "task"}


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ({"messages": CHAT}, "messages"),
        ({"conversations": CHAT}, "conversations"),
        ({"dialog": CHAT}, "messages"),
        ({"chat": CHAT}, "messages"),
        ({"contents": [{"role": "user", "parts": [{"text": "a"}]}]}, "messages"),
        ({"messages": '[{"role": "user"}]'}, "messages"),  # as a table has it
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "prompt"),
        ({"prompt": CHAT[:1], "completion": "3"}, "prompt"),
        ({"prompt": {"text": "a", "role": "prompter", "replies": []}, "message_tree_id": "1"}, "oasst"),
        ({"segments": []}, "segments"),
        ({"instruction": "a", "instances": []}, "self-instruct"),
        ({"topic": "a", "input": "[|Human|] a [|AI|] b"}, "baize"),
        ({"chat": "a text", "text": "b"}, "text"),
        ({"instruction": "a", "output": "b", "messages": None}, "alpaca"),
    ],
)
def test_forms_with_a_structure_are_told_by_their_columns_and_kinds(value, form):
    assert plan(value).form == form


def test_a_name_that_was_given_comes_first_and_the_form_gives_the_rest():
    made = plan(record("prompt chosen rejected", system="s"), output="chosen", ignore=["rejected"])
    assert made.keys == {"system": "system", "instruction": "prompt", "output": "chosen"}
    assert (made.unknown, dict(made.known)) == ((), {"rejected": "left out by data.ignore"})
    made = plan({"chosen": CHAT, "rejected": CHAT}, messages="chosen", ignore=["rejected"])
    assert (made.form, made.keys) == ("messages", {"messages": "chosen"})
    texts = {"problem": "a", "solution": "b", "messages": CHAT}
    assert plan(texts).keys == {"messages": "messages"}
    assert plan(texts, instruction="problem").keys == {"instruction": "problem", "output": "solution"}


def test_every_field_works_beside_messages_or_is_an_error_that_says_why():
    value = {"about": "s", "passage": "p", "messages": CHAT, "calls": []}
    made = plan(value, system="about", input="passage", tools="calls")
    assert made.keys == {"system": "about", "messages": "messages", "input": "passage", "tools": "calls"}
    for part in ("instruction", "history"):
        assert plan(value, **{part: "passage"}).problem == (
            f'data.fields.{part}=passage: rows of messages ("messages") hold it themselves (leave it out)'
        )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            record("prompt chosen rejected"),
            "preference rows (chosen, rejected), which are not learnt as pairs (for the chosen answers alone: "
            "data.fields.output=chosen data.ignore=[rejected])",
        ),
        (
            {"chosen": CHAT, "rejected": CHAT},
            "preference rows (chosen, rejected), which are not learnt as pairs (for the chosen answers alone: "
            "data.fields.messages=chosen data.ignore=[rejected])",
        ),
        (
            record("chosen rejected"),
            "preference rows (chosen, rejected), which are not learnt as pairs (for the chosen answers alone: "
            "prompt=none data.fields.output=chosen data.ignore=[rejected], or split them into messages)",
        ),
        (
            {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]},
            "preference rows (chosen, rejected), which are not learnt as pairs (for the chosen answers alone: "
            "data.fields.messages=prompt data.fields.output=chosen data.ignore=[rejected])",
        ),
        (
            record("prompt response_0 response_1"),
            "preference rows (response_0, response_1), which are not learnt as pairs (for one of them: "
            "data.fields.output=response_0 data.ignore=[response_1])",
        ),
        (
            {"input": {"messages": CHAT[:1]}, "preferred_output": CHAT[1:], "non_preferred_output": CHAT[1:]},
            "preference rows (preferred_output, non_preferred_output), which are not learnt as pairs (for the chosen "
            'answers alone: write rows of messages, those of "input" and then "preferred_output")',
        ),
        (record("prompt"), 'no "output" (it has: prompt; set data.fields.output=...)'),
        (
            {"input_ids": [1], "labels": [1]},
            "tokens of another program (input_ids), not text (give the rows of text that they were made from)",
        ),
        (
            {"question_id": 1, "turns": ["a", "b"]},
            "prompts without answers (turns): there is nothing to learn (give rows that have answers)",
        ),
        (
            record("Answer", **{"Human Question (en)": "a", "Context, if any": "b"}),
            'no "instruction" (it has: Answer, Human Question (en), Context, if any; set '
            "'data.fields.instruction=\"Human Question (en)\"' data.fields.output=Answer "
            "'data.fields.input=\"Context, if any\"')",
        ),
        (
            record("指令 输入 输出"),
            'no "instruction" (it has: 指令, 输入, 输出; set \'data.fields.instruction="指令"\' '
            "'data.fields.output=\"输出\"' 'data.fields.input=\"输入\"')",
        ),
        (
            record("prompt output"),
            'no "instruction" (it has: prompt, output; set data.fields.instruction=prompt)',
        ),
        (
            record("Instruction INSTRUCTION output"),  # which of the two?
            'no "instruction" (it has: Instruction, INSTRUCTION, output; set data.fields.instruction=Instruction)',
        ),
    ],
)
def test_records_of_no_use_say_what_they_are_and_what_to_type(value, problem):
    made = plan(value)
    assert made.form is None
    assert made.problem.startswith(problem)
