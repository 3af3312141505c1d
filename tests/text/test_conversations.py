import pytest

from ift.text.conversations import Conversation, Turn, conversation_of, join_neighbours, role_of

MESSAGES = [("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", "And 2+2?"), ("assistant", "4")]


def test_messages_become_a_conversation_with_its_answer_or_to_be_answered():
    history = (("1+1?", "2"),)
    answered = Conversation("And 2+2?", output="4", system="Be brief.", history=history)
    assert conversation_of(MESSAGES, answered=True) == answered
    assert conversation_of(MESSAGES[:-1]) == Conversation("And 2+2?", system="Be brief.", history=history)
    assert conversation_of([("user", "a")]) == Conversation("a")


@pytest.mark.parametrize(
    ("roles", "answered", "shown"),
    [
        ("", False, "none, not user and assistant in turn, user last"),
        ("", True, "none, not user and assistant in turn, assistant last"),
        ("system", False, "none, not"),
        ("user assistant", False, "user, assistant, not user and assistant in turn, user last"),
        ("user", True, "user, not user and assistant in turn, assistant last"),
        ("user user", False, "user, user, not"),
        ("assistant user", False, "assistant, user, not"),
        ("user system user", False, "user, system, user, not"),
    ],
)
def test_messages_that_are_no_conversation_say_why(roles, answered, shown):
    with pytest.raises(ValueError, match=r"^turns are ") as caught:
        conversation_of([(role, "x") for role in roles.split()], answered=answered)
    assert str(caught.value).startswith(f"turns are {shown}")


def test_a_role_has_several_names():
    names = ("system", "developer", "USER", " human ", "Chatbot", "gpt", "model")
    assert [role_of(name, 1) for name in names] == ["system"] * 2 + ["user"] * 2 + ["assistant"] * 3
    assert [role_of(name, 1) for name in ("tool", "observation", "function_call", "Tool-Call")] == ["tool"] * 2 + [
        "call"
    ] * 2
    with pytest.raises(ValueError, match=r"^message 3 is of 'narrator', not of system, user or assistant$"):
        role_of("narrator", 3)


def test_messages_of_one_role_that_follow_each_other_are_one():
    messages = [("user", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")]
    assert join_neighbours(messages) == [("user", "a\n\nb"), ("assistant", "c"), ("user", "d")]


def test_only_the_first_turn_has_the_system_text():
    conversation = Conversation("c", "d", "e", "s", (("a", "b"),))
    assert conversation.turns() == [Turn("a", "", "b", "s", True), Turn("c", "d", "e", "", False)]


def test_a_system_text_without_a_place_stands_before_the_first_instruction():
    assert Conversation("a", system="s").without_system() == Conversation("s\n\na")
    later = Conversation("c", system="s", history=(("a", "b"),))
    assert later.without_system() == Conversation("c", history=(("s\n\na", "b"),))
    assert Conversation("a").without_system() == Conversation("a")
