"""Turns that are dropped take their marks and messages along, and answers are numbered anew."""

import json

import pytest

from ift.data.contract.fewer_turns import count_turns, only_turns
from ift.data.reading.rows import Row
from ift.text.conversations import Conversation

FOUR = Conversation(
    "q3", "given", "a3", "sys", (("q0", "a0"), ("q1", "a1"), ("q2", "a2")), (0, 2, 3), ((1, 0, 1), (2, 1, 2))
)


def test_the_turns_that_stay_keep_their_marks_under_new_numbers_and_the_system_text():
    assert count_turns(FOUR) == 4
    assert only_turns(FOUR, 0, 4) == FOUR
    later = only_turns(FOUR, 2, 4)
    assert (later.history, later.instruction, later.input, later.output) == ((("q2", "a2"),), "q3", "given", "a3")
    assert (later.system, later.unlearnt, later.unlearnt_parts) == ("sys", (0, 1), ((0, 1, 2),))


def test_without_the_last_turn_the_one_before_it_is_the_one_to_answer():
    earlier = only_turns(FOUR, 1, 3)
    assert (earlier.history, earlier.instruction, earlier.input, earlier.output) == ((("q1", "a1"),), "q2", "", "a2")
    assert (earlier.unlearnt, earlier.unlearnt_parts) == ((1,), ((0, 0, 1), (1, 1, 2)))


def test_a_row_stays_the_row_of_its_place():
    row = only_turns(Row("q1", output="a1", history=(("q0", "a0"),), file="f", number=7), 1, 2)
    assert row == Row("q1", output="a1", file="f", number=7)


CALL = {"type": "function", "function": {"name": "clock", "arguments": {"zone": "UTC"}}}
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What time is it?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "12:00"},
    {"role": "assistant", "content": "Noon."},
    {"role": "user", "content": "Again?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "user", "content": "Thanks."},
    {"role": "assistant", "content": "Bye."},
]
TALK = Conversation(
    "Thanks.",
    output="Bye.",
    system="Be brief.",
    history=(("What time is it?", "Noon."), ("Again?", json.dumps([CALL]))),
    unlearnt=(0, 2),
    unlearnt_parts=((3, 0, 1),),
    chat=json.dumps({"messages": MESSAGES, "tools": [CALL]}),
)


def test_messages_go_by_whole_turns_from_a_users_message_to_the_next():
    assert count_turns(TALK) == 3
    later = only_turns(TALK, 1, 3)
    assert json.loads(later.chat) == {"messages": [MESSAGES[0], *MESSAGES[5:]], "tools": [CALL]}
    assert (later.unlearnt, later.unlearnt_parts) == ((0,), ((1, 0, 1),))  # the first turn had two answers
    assert (later.history, later.instruction, later.output) == (TALK.history[1:], "Thanks.", "Bye.")


@pytest.mark.parametrize(("end", "question", "answer"), [(1, "What time is it?", "Noon."), (2, "Again?", [CALL])])
def test_the_texts_a_person_reads_are_those_of_the_last_message_that_stays(end, question, answer):
    earlier = only_turns(TALK, 0, end)
    output = earlier.output if isinstance(answer, str) else json.loads(earlier.output)
    assert (earlier.instruction, output, len(earlier.history)) == (question, answer, end - 1)
    assert json.loads(earlier.chat)["messages"] == MESSAGES[: {1: 5, 2: 7}[end]]


def test_two_messages_of_the_user_in_a_row_are_one_turn():
    messages = [{"role": role, "content": role[0]} for role in ("user", "user", "assistant", "user", "assistant")]
    talk = Conversation("u", output="a", history=(("u\n\nu", "a"),), chat=json.dumps({"messages": messages}))
    assert count_turns(talk) == 2
    assert json.loads(only_turns(talk, 0, 1).chat)["messages"] == messages[:3]
