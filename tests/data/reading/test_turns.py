import itertools
from collections import Counter

import pytest

from ift.data.reading.turns import NothingLearnt, Said, conversation_in_order, joined, united
from ift.text.conversations import Conversation

ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
CALLS = [{"type": "function", "function": {"name": "f", "arguments": {}}}]


def said(spelled):
    """ "u1 a2-" -> a user's "1", and an assistant's "2" that is not learnt; "a" and "u" alone are empty."""
    return [
        Said(role=ROLES[word[0]], text=word[1:].rstrip("-"), number=number, learnt=not word.endswith("-"))
        for number, word in enumerate(spelled.split(), start=1)
    ]


def ordered(spelled, turns):
    conversation, repaired = conversation_in_order(said(spelled), turns=turns)
    return conversation, dict(repaired)


ONE = Conversation("1", output="2")


@pytest.mark.parametrize("turns", ["error", "merge", "drop"])
def test_what_is_in_order_stays_as_it_is(turns):
    assert ordered("u1 a2", turns) == (ONE, {})
    assert ordered("s0 u1 a2 u3 a4", turns) == (Conversation("3", output="4", system="0", history=(("1", "2"),)), {})


@pytest.mark.parametrize(
    ("spelled", "merged", "how", "dropped", "how_dropped"),
    [
        ("a0 u1 a2", ONE, {"answer before a question left out": 1}, ONE, {"answer before a question left out": 1}),
        (
            "u1 a2 u3 s4",
            ONE,
            {"system text moved": 1, "question after the last answer left out": 1},
            ONE,
            {"system text left out": 1, "question after the last answer left out": 1},
        ),
        (
            "u0 u1 a2",
            Conversation("0\n\n1", output="2"),
            {"neighbours merged": 1},
            ONE,
            {"neighbours left out": 1},
        ),
        (
            "u1 a0 a2",
            Conversation("1", output="0\n\n2"),
            {"neighbours merged": 1},
            ONE,
            {"neighbours left out": 1},
        ),
        (
            "u1 a2 s0 u3 a4",
            Conversation("0\n\n3", output="4", history=(("1", "2"),)),
            {"system text moved": 1},
            Conversation("3", output="4", history=(("1", "2"),)),
            {"system text left out": 1},
        ),
        ("u1 s0 a2", Conversation("1\n\n0", output="2"), {"system text moved": 1}, ONE, {"system text left out": 1}),
        ("u1 a2 s0", ONE, {"system text left out": 1}, ONE, {"system text left out": 1}),
        ("u1 t0 a2", ONE, {"tool result without a call left out": 1}, ONE, {"tool result without a call left out": 1}),
        (
            "u0 a u1 a2",
            Conversation("0\n\n1", output="2"),
            {"empty message left out": 1, "neighbours merged": 1},
            ONE,
            {"empty message left out": 1, "neighbours left out": 1},
        ),
        (
            "s0 s9 u1 a2",
            Conversation("1", output="2", system="0\n\n9"),
            {"neighbours merged": 1},
            Conversation("1", output="2", system="9"),
            {"neighbours left out": 1},
        ),
    ],
)
def test_turns_out_of_order_follow_one_rule(spelled, merged, how, dropped, how_dropped):
    if " a " not in spelled:  # an empty answer in its place is refused by who asked for the conversation
        with pytest.raises(ValueError, match=r"^turns are .* \(message \d is out of place; "):
            conversation_in_order(said(spelled))
    assert ordered(spelled, "merge") == (merged, how)
    assert ordered(spelled, "drop") == (dropped, how_dropped)


def test_the_reason_names_the_first_message_out_of_place_and_what_to_do():
    with pytest.raises(
        ValueError,
        match=r"^turns are user, user, assistant, not user and assistant in turn, assistant "
        r"last \(message 2 is out of place; data.turns=merge or drop repairs it\)$",
    ):
        conversation_in_order(said("u1 u2 a3"))


@pytest.mark.parametrize("turns", ["error", "merge", "drop"])
@pytest.mark.parametrize(
    ("spelled", "shown"), [("", "none"), ("s1", "none"), ("u1", "user"), ("a1 u2", "assistant, user")]
)
def test_where_nothing_would_be_left_no_setting_is_offered(spelled, shown, turns):
    with pytest.raises(ValueError, match=rf"^turns are {shown}, not user and assistant in turn, assistant last$"):
        conversation_in_order(said(spelled), turns=turns)


def test_marks_and_numbers_of_answers_stay_right_when_turns_are_repaired():
    # of the answers 0, 2-, 4 and 5-: the first goes, the last two are one
    conversation, _ = ordered("a0 u1 a2- u3 a45 a678-", "merge")
    assert conversation == Conversation(
        "3", output="45\n\n678", history=(("1", "2"),), unlearnt=(0,), unlearnt_parts=((1, 2, 7),)
    )
    conversation, _ = ordered("a0 u1 a2- u3 a45- a678", "drop")
    assert conversation == Conversation("3", output="678", history=(("1", "2"),), unlearnt=(0,))
    with pytest.raises(NothingLearnt, match=r"^no answer of it is to be learnt"):
        ordered("a0 u1 a2-", "merge")


@pytest.mark.parametrize("turns", ["merge", "drop"])
def test_in_every_order_of_five_messages_a_letter_bears_a_loss_exactly_where_its_message_does(turns):
    kept = 0
    for roles in itertools.product("suat", repeat=5):
        # each message says a letter of its own three times; every second one is not learnt
        words = [f"{role}{letter * 3}{mark}" for role, letter, mark in zip(roles, "abcde", "_-_-_", strict=True)]
        try:
            conversation, repaired = ordered(" ".join(words).replace("_", ""), turns)
        except ValueError:  # nothing is left, or nothing to learn
            continue
        kept += 1
        answers = [turn.output for turn in conversation.turns()]
        learnt = [
            letter
            for number, answer in enumerate(answers)
            if number not in conversation.unlearnt
            for at, letter in enumerate(answer)
            if not any(n == number and begin <= at < end for n, begin, end in conversation.unlearnt_parts)
        ]
        said_by = {letter for role, letter in zip(roles, "abcde", strict=True) if role == "a"}
        assert Counter(learnt) - Counter("\n" * 9) == {x: 3 for x in "ace" if x in "".join(answers) and x in said_by}
        assert repaired or list("".join(answers)) == [x for x in "abcde" for _ in range(3) if x in said_by]
    assert kept > 100


def test_parts_without_a_loss_move_with_their_text():
    first = Said(role="assistant", number=2, text="abc", unlearnt=((2, 3),))
    second = Said(role="assistant", number=3, text="def", unlearnt=((1, 2),))
    assert joined(first, second).unlearnt == ((2, 5), (6, 7))  # abc__def: the empty line goes with the c
    assert joined(second, first).unlearnt == ((1, 2), (7, 8))
    both = joined(
        Said(role="assistant", number=2, text="a", learnt=False),
        Said(role="assistant", number=3, text="b", learnt=False),
    )
    assert (both.learnt, both.unlearnt) == (False, ())
    assert united([(0, 1), (1, 1), (1, 3), (4, 5)]) == ((0, 3), (4, 5))


def test_calls_are_joined_in_their_order_or_refused():
    text, call = Said(role="assistant", number=2, text="a"), Said(role="assistant", number=3, calls=CALLS)
    one = joined(text, call)
    assert (one.text, one.calls) == ("a", CALLS)
    with pytest.raises(ValueError, match=r"^messages 3 and 2 follow each other, and calls or reasoning stand between"):
        joined(call, text)
    with pytest.raises(ValueError, match=r"^messages 2 and 3 follow each other, and only one is to be learnt"):
        joined(Said(role="assistant", number=2, text="a", learnt=False), call)


def test_results_of_tools_stand_between_two_answers():
    messages = said("u1 a t2 t3 a4 u5 a6")
    messages[1].calls = CALLS
    conversation, repaired = conversation_in_order(messages)
    shown = '[{"name": "f", "arguments": {}}]'
    assert conversation.history == (("1", shown), ("2\n\n3", "4"))
    assert (conversation.instruction, conversation.input, conversation.output) == ("5", "", "6")
    assert repaired == Counter()
    messages[4:5] = []
    with pytest.raises(ValueError, match="not user and assistant in turn"):
        conversation_in_order(messages[:4])
    assert conversation_in_order(messages[:4], turns="drop")[1] == {"tool result after the last answer left out": 2}
