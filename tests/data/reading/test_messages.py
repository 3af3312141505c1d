import json
from collections import Counter

import pytest

from ift.data.reading.messages import HARMLESS, KNOWN, conversation_from, is_messages, prompt_and_completion
from ift.data.reading.names import ROLE_KEYS
from ift.text.conversations import Conversation

PAIR = [("user", "Why?"), ("assistant", "So.")]
ANSWERED = Conversation("Why?", output="So.")


def listed(*pairs, role="role", text="content"):
    return [{role: who, text: said} for who, said in pairs]


def read(messages, **more):
    return conversation_from(messages, **more)[0]


def chat_of(messages, **more):
    return json.loads(read(messages, **more).chat)


def refused(messages, **more):
    with pytest.raises(ValueError, match=r"^") as caught:
        conversation_from(messages, **more)
    assert len(str(caught.value)) < 240  # the file's name and the row stand before it, in 300
    return str(caught.value)


# -- spellings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        listed(*PAIR),
        listed(("human", "Why?"), ("gpt", "So."), role="from", text="value"),
        listed(("User", "Why?"), ("Chatbot", "So."), role="speaker", text="text"),
        listed(("prompter", "Why?"), ("BING", "So.")),
        listed(("HUMAN", [{"type": "text", "text": "Why?"}]), ("AI", [{"type": "text", "text": "So."}])),
        listed(("user", [{"text": "Wh"}, {"text": "y?"}]), ("assistant", [{"text": "So."}])),
        listed(("user", [{"type": "text", "value": "Why?"}]), ("assistant", [{"type": "text", "value": "So."}])),
        listed(("user", [{"text": "Why?"}]), ("model", [{"text": "So."}]), text="parts"),
        listed(("user", {"content_type": "text", "parts": ["Why?"]}), ("assistant", "So.")),
        [{"role": None, "content": None, "from": who, "value": said} for who, said in PAIR],
        [{"role": who, "content": said, "tool_calls": None, "audio": None, "weight": None} for who, said in PAIR],
        [{"role": who, "content": said, "text": said, "id": 7, "timestamp": "2026-11-21"} for who, said in PAIR],
        json.dumps(listed(*PAIR)),
        [json.dumps(message) for message in listed(*PAIR)],
        {"from": ["human", "gpt"], "value": ["Why?", "So."]},
        {"role": ["user", "assistant"], "content": ["Why?", "So."], "weight": None},
        ["Why?", "So."],
        [["Why?", "So."]],
        [["user", "Why?"], ["assistant", "So."]],
        [{"human": "Why?", "assistant": "So."}],
        [{"input": "Why?", "output": "So."}],
        [{"user": "Why?"}, {"bot": "So."}],
    ],
)
def test_messages_are_read_in_every_spelling(messages):
    assert conversation_from(messages) == (ANSWERED, Counter())


def test_turns_that_are_objects_or_pairs_stand_in_their_order():
    four = Conversation("c", output="d", history=(("a", "b"),))
    assert read(["a", "b", "c", "d"]) == read([["a", "b"], ["c", "d"]]) == four
    assert read([{"human": "a", "assistant": "b"}, {"human": "c", "assistant": "d", "weight": 1}]) == four


@pytest.mark.parametrize(
    "system", ["Be brief.", [{"type": "text", "text": "Be brief."}], [{"text": "Be "}, {"text": "brief."}]]
)
def test_a_system_text_beside_the_messages_is_theirs(system):
    assert read(listed(*PAIR), system=system) == Conversation("Why?", output="So.", system="Be brief.")
    own = listed(("system", "Be brief."), *PAIR)
    assert read(own, system=system) == read(own)  # the same twice is one
    assert read(listed(("system", ""), *PAIR), system=system).system == "Be brief."


def test_a_system_text_beside_the_messages_may_be_json_of_parts_and_braces_are_text():
    assert read(listed(*PAIR), system='[{"type": "text", "text": "Be brief."}]').system == "Be brief."
    assert read(listed(*PAIR), system='{"a": 1} is JSON').system == '{"a": 1} is JSON'
    parts = {"parts": [{"text": "Be brief."}]}
    assert read(listed(*PAIR), system=parts).system == "Be brief."


def test_two_system_texts_are_an_error_or_joined_or_the_inner_one():
    messages = listed(("system", "inner"), *PAIR)
    assert refused(messages, system="outer").startswith("a system text stands beside the messages and another in")
    assert conversation_from(messages, system="outer", turns="merge")[0].system == "outer\n\ninner"
    assert conversation_from(messages, system="outer", turns="drop") == (
        Conversation("Why?", output="So.", system="inner"),
        Counter({"neighbours left out": 1}),
    )


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (3, "the messages are a number, not a list"),
        ({"a": 1}, "the messages are an object, not a list"),
        ("[{'role': 'user'}]", "the messages are text that is Python's spelling, not JSON (write it with json.dumps"),
        ('[{"role": "user"', "the messages are text that is no JSON ("),
        (
            '[{"role": "user", "role": "user"}]',
            'the messages are text that cannot be used: the key "role" stands twice',
        ),
        (
            {"from": ["human"], "value": ["a", "b"]},
            'the lists of its messages are of different lengths: "from" 1, "value" 2',
        ),
        (["a", "b", "c"], "3 texts without roles, read as user and assistant in turn: the last one has no answer"),
        ([*listed(*PAIR), "b"], "message 3 is text, not an object"),
        ([["a", "b", "c"]], "message 1 is a list, not an object or a question and its answer"),
        (listed(("narrator", "a")), "message 1 is of 'narrator', not of system, user or assistant"),
        ([{"content": "a"}], "message 1 is of null, not of system, user or assistant"),
        ([{"role": "user", "from": "gpt", "content": "a"}], "message 1 is of 'user' and of 'gpt'"),
        ([{"role": "user", "content": "a", "value": "b"}], 'message 1 has "content" and "value", and they differ'),
        ([{"role": "user", "body": "a"}], 'message 1 has no "content" (it has: role, body)'),
        (listed(("user", None), ("assistant", "b")), "message 1 is null, not text"),
        (listed(("user", 3)), "message 1 is a number, not text"),
        (listed(("user", "a\0")), "message 1 holds a NUL character (is it text?)"),
        (
            listed(("user", [{"type": "image_url", "image_url": {}}])),
            'message 1 has parts that are not text: "image_url"',
        ),
        (listed(("user", [{"inlineData": {"data": ""}}])), 'message 1 has parts that are not text: "inlineData"'),
        (listed(("user", [3])), "message 1 has parts that are a number, not objects"),
        ([{**listed(*PAIR)[0], "audio": {"id": "x"}}], 'message 1 has "audio", which nothing carries'),
        ([{**listed(*PAIR)[0], "images": ["a.png"]}], 'message 1 has "images", which nothing carries'),
        (
            [{**listed(*PAIR)[0], "context": "words that a prompt has"}],
            'message 1 has "context", which nothing carries',
        ),
        ([{**listed(*PAIR)[0], "image": "a.png"}], 'message 1 has "image", which nothing carries'),
        ([{"type": "function_call_output", "output": "a"}], "message 1 is of null, not of system, user or assistant"),
        ([{**listed(*PAIR)[0], "no_loss": 1}], 'message 1 has "no_loss", which is no known mark'),
        ([{**listed(*PAIR)[0], "mask": False}], 'message 1 has "mask", which is no known mark'),
    ],
)
def test_messages_that_cannot_be_read_say_why(messages, reason):
    assert refused(messages).startswith(reason)


def test_what_is_nested_too_deeply_is_said_to_be_so():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    call = {"role": "assistant", "content": "b", "tool_calls": [{"name": "f", "arguments": {"x": deep}}]}
    assert refused([*listed(PAIR[0]), call]) == "its messages are nested too deeply"


def test_what_looks_like_messages_and_what_does_not():
    assert all(map(is_messages, (listed(*PAIR), json.dumps(listed(*PAIR)), {"role": ["user"], "content": ["a"]})))
    assert is_messages(str(listed(*PAIR)))  # Python's spelling: to be refused by name
    assert not any(map(is_messages, ("text", '{"from": "a"}', ["a", "b"], [], {}, None, [{"a": 1}], "[1, 2]")))


# -- prompt and completion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [listed(PAIR[0]), "Why?", json.dumps(listed(PAIR[0]))])
@pytest.mark.parametrize("completion", [listed(PAIR[1]), "So.", json.dumps(listed(PAIR[1]))])
def test_a_prompt_and_its_completion_may_be_messages_or_text(prompt, completion):
    assert read(prompt_and_completion(prompt, completion)) == ANSWERED


def test_an_answer_inside_a_prompt_is_not_learnt_unless_it_is_marked():
    prompt = listed(("user", "a"), ("assistant", "b"), ("user", "c"))
    expected = Conversation("c", output="d", history=(("a", "b"),), unlearnt=(0,))
    assert read(prompt_and_completion(prompt, "d")) == expected
    prompt[1]["weight"] = 1
    assert read(prompt_and_completion(prompt, "d")).unlearnt == ()


# -- tools and reasoning -----------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}}
ARGUMENTS = {"name": "look_up", "arguments": {"n": 0}}
CALL = {"type": "function", "function": ARGUMENTS}
WITH_TOOLS = [
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "x"},
    {"role": "assistant", "content": "So."},
]


@pytest.mark.parametrize(
    "messages",
    [
        WITH_TOOLS,
        [WITH_TOOLS[0], {"role": "assistant", "content": None, "function_call": ARGUMENTS}, *WITH_TOOLS[2:]],
        listed(
            ("human", "Why?"),
            ("function_call", json.dumps(ARGUMENTS)),
            ("observation", "x"),
            ("gpt", "So."),
            role="from",
            text="value",
        ),
        listed(
            PAIR[0],
            ("Function-Call", json.dumps([{"name": "look_up", "arguments": '{"n": 0}'}])),
            ("ipython", "x"),
            PAIR[1],
        ),
        [WITH_TOOLS[0], {"role": "assistant", "tool_calls": json.dumps([CALL])}, *WITH_TOOLS[2:]],
        listed(
            PAIR[0],
            ("assistant", [{"type": "tool_use", "name": "look_up", "input": {"n": 0}}]),
            ("user", [{"type": "tool_result", "content": [{"type": "text", "text": "x"}]}]),
            PAIR[1],
        ),
        listed(PAIR[0], ("assistant", [{"type": "tool_call", "value": json.dumps(ARGUMENTS)}]), ("tool", "x"), PAIR[1]),
        [
            WITH_TOOLS[0],
            {"role": "assistant", "channel": "commentary", "recipient": "functions.look_up", "content": '{"n": 0}'},
            *WITH_TOOLS[2:],
        ],
    ],
)
def test_calls_of_tools_are_read_in_every_spelling(messages):
    calls = json.dumps([ARGUMENTS])
    conversation = read(messages)
    assert json.loads(conversation.chat) == {"messages": WITH_TOOLS, "tools": []}
    assert conversation == Conversation("Why?", "x", "So.", history=(("Why?", calls),), chat=conversation.chat)


def test_a_call_alone_is_an_answer_and_a_text_may_stand_before_it():
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert read([WITH_TOOLS[0], call], tools=[TOOL]).output == json.dumps([ARGUMENTS])
    both = read([WITH_TOOLS[0], {**call, "content": "Let me look."}], tools=[TOOL])
    assert both.output == "Let me look."
    assert "look_up" in both.chat
    assert refused([WITH_TOOLS[0], {**call, "tool_calls": []}]) == "message 2 is null, not text"


def test_the_ids_of_calls_and_results_are_kept():
    call = {"role": "assistant", "tool_calls": [{"id": "c0", **CALL}]}
    result = {"role": "tool", "tool_call_id": "c0", "name": "look_up", "content": {"word": "é"}}
    messages = chat_of([WITH_TOOLS[0], call, result, WITH_TOOLS[3]])["messages"]
    assert messages[1]["tool_calls"][0]["id"] == "c0"
    assert messages[2] == {"role": "tool", "content": '{"word": "é"}', "tool_call_id": "c0", "name": "look_up"}


@pytest.mark.parametrize(
    "tools",
    [
        [TOOL],
        json.dumps([TOOL]),
        [json.dumps(TOOL)],
        TOOL,
        [TOOL["function"]],
        [{"name": "look_up", "input_schema": SCHEMA}],
        [{"type": "function", "name": "look_up", "parameters": json.dumps(SCHEMA)}],
    ],
)
def test_tools_stand_in_one_form(tools):
    conversation = read(listed(*PAIR), tools=tools)
    assert json.loads(conversation.chat) == {"messages": listed(*PAIR), "tools": [TOOL]}
    assert (conversation.instruction, conversation.output) == ("Why?", "So.")


@pytest.mark.parametrize("tools", [None, "", "[]", [], {}])
def test_no_tools_are_no_tools(tools):
    assert read(listed(*PAIR), tools=tools) == ANSWERED


def test_an_empty_system_text_is_none_with_tools_too():
    assert chat_of(listed(("system", ""), *PAIR), tools=[TOOL])["messages"] == listed(*PAIR)


def test_a_short_label_that_nobody_knows_is_no_part_of_what_is_said():
    assert read([{**message, "mood": "calm", "votes": 3, "links": []} for message in listed(*PAIR)]) == ANSWERED


def test_nulls_that_columns_were_filled_up_with_are_no_arguments():
    filled = {
        "name": "look_up",
        "parameters": {**SCHEMA, "properties": {"n": {"type": "integer", "default": None}, "m": None}},
    }
    call = {"name": "look_up", "arguments": {"n": 0, "m": None}}
    messages = [WITH_TOOLS[0], {"role": "assistant", "tool_calls": [call]}]
    chat = chat_of(messages, tools=[filled])
    assert chat["tools"] == [TOOL]
    assert chat["messages"][1]["tool_calls"] == [CALL]
    assert chat_of(messages, tools=[TOOL])["messages"][1]["tool_calls"][0]["function"] == call  # a null of its own
    assert chat_of([{**messages[0], "tool_calls": None}, messages[1]])["messages"][1]["tool_calls"] == [CALL]
    text = [
        {**messages[0], "tool_calls": None},
        {"role": "assistant", "function_call": {**call, "arguments": '{"m": null}'}},
    ]
    assert chat_of(text)["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"m": None}
    default = {"name": "look_up", "parameters": {"properties": {"n": {"default": None}}}}
    assert chat_of(listed(*PAIR), tools=[default])["tools"][0]["function"] == default


@pytest.mark.parametrize(
    "answer",
    [
        {"reasoning_content": "Hm.", "content": "So."},
        {"reasoning": "Hm.", "reasoning_content": "Hm.", "content": "So."},
        {"thinking": "Hm.", "content": "So.", "channel": "final"},
        {"content": [{"type": "thinking", "thinking": "Hm.", "signature": "x" * 99}, {"type": "text", "text": "So."}]},
        {"content": [{"type": "reasoning", "value": "Hm."}, {"type": "text", "value": "So."}]},
    ],
)
def test_reasoning_is_carried(answer):
    conversation = read([WITH_TOOLS[0], {"role": "assistant", **answer}])
    expected = {"role": "assistant", "content": "So.", "reasoning_content": "Hm."}
    assert json.loads(conversation.chat)["messages"] == [WITH_TOOLS[0], expected]
    assert (conversation.instruction, conversation.output) == ("Why?", "So.")


def test_harmonys_channels_are_one_answer():
    messages = [
        {"role": "developer", "content": "Be brief."},
        WITH_TOOLS[0],
        {"role": "assistant", "channel": "analysis", "content": "Hm."},
        {"role": "assistant", "channel": "commentary", "content": "Let me look."},
        {"role": "assistant", "channel": "commentary", "recipient": "functions.look_up", "content": '{"n": 0}'},
        {"role": "tool", "name": "functions.look_up", "content": "x"},
        {"role": "assistant", "channel": "analysis", "content": "Ah."},
        {"role": "assistant", "channel": "final", "content": "So."},
    ]
    assert chat_of(messages)["messages"] == [
        {"role": "system", "content": "Be brief."},
        WITH_TOOLS[0],
        {"role": "assistant", "content": "Let me look.", "reasoning_content": "Hm.", "tool_calls": [CALL]},
        {"role": "tool", "content": "x", "name": "look_up"},
        {"role": "assistant", "content": "So.", "reasoning_content": "Ah."},
    ]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            {"content": "a", "tool_calls": [{"name": "f", "arguments": "n=0"}]},
            "message 2 calls f with arguments that is no",
        ),
        (
            {"tool_calls": [{"name": "f", "arguments": [0]}]},
            "message 2 calls f with arguments that are a list, not an object",
        ),
        ({"tool_calls": [{"arguments": {}}]}, "message 2 calls a tool without a name"),
        ({"tool_calls": 3}, "message 2 calls a tool by a number, not by an object with name and arguments"),
        ({"tool_calls": [{**CALL, "note": ["a"]}]}, 'a call in message 2 has "note", which nothing carries'),
        ({"reasoning": {"a": 1}, "content": "b"}, "the reasoning of message 2 is an object, not text"),
        (
            {"reasoning": "a", "thinking": "b", "content": "c"},
            'message 2 has "reasoning" and "thinking", and they differ',
        ),
        (
            {"content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "b"}]},
            'message 2 has a part "thinking" after a text or a call',
        ),
        (
            {"content": "{}", "channel": "analysis", "recipient": "python"},
            "message 2 is for 'python', and only calls of",
        ),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "message 2 is of user and has calls of tools"),
        ({"role": "user", "content": "a", "thinking": "b"}, "message 2 is of user and has reasoning"),
        ({"role": "function_call", "content": "look"}, "message 2 calls a tool in a text that is no JSON ("),
    ],
)
def test_what_cannot_be_carried_is_named(message, reason):
    assert refused([WITH_TOOLS[0], {"role": "assistant", **message}]).startswith(reason)


@pytest.mark.parametrize(
    ("tools", "reason"),
    [
        ("look_up(n)", '"tools" is text that is no JSON'),
        (3, '"tools" is a number, not a list'),
        ([3], "tool 1 is a number, not an object"),
        ([TOOL, {"parameters": {}}], "tool 2 has no name"),
        ([{"name": "f", "parameters": {"x": float("nan")}}], "its tools or calls hold what JSON cannot hold"),
        ([{"name": "f", "parameters": {"x": b"a"}}], "its tools or calls hold what JSON cannot hold"),
        ([{"name": "f", "description": "a\0"}], "tool 1 holds a NUL character"),
    ],
)
def test_tools_that_cannot_be_read_say_why(tools, reason):
    assert refused(listed(*PAIR), tools=tools).startswith(reason)


# -- marks -------------------------------------------------------------------------------------------------------------

TWO = listed(("user", "a"), ("assistant", "bad"), ("user", "c"), ("assistant", "good"))


def marked(*marks):
    return [{**message, **mark} for message, mark in zip(TWO, marks, strict=True)]


@pytest.mark.parametrize(
    ("no", "yes"),
    [
        ({"weight": 0}, {"weight": 1}),
        ({"weight": 0.0}, {}),
        ({"train": False}, {"train": True}),
        ({"training": False}, {"training": None}),
        ({"loss_weight": 0.0}, {"loss_weight": 1.0}),
        ({"loss": False}, {"loss": True}),
        ({"masked": True}, {"masked": False}),
    ],
)
def test_an_answer_that_is_marked_is_not_learnt(no, yes):
    expected = Conversation("c", output="good", history=(("a", "bad"),), unlearnt=(0,))
    assert read(marked({}, no, {}, yes)) == expected
    assert read(marked({}, yes, {}, no)).unlearnt == (1,)
    assert read(marked({}, yes, {}, yes)).unlearnt == ()
    every = "no answer of it is to be learnt (weight, train or loss_weight is 0 for all)"
    assert refused(marked({}, no, {}, no)) == every


def test_a_prompt_may_be_marked_as_not_learnt_and_not_as_learnt():
    assert read(marked({"loss_weight": 0.0}, {}, {"train": False}, {})).unlearnt == ()
    assert refused(marked({}, {}, {"train": True}, {})) == (
        "message 3 is of user and marked to be learnt: only answers can be "
        "(leave the mark out; prompt.mask=false learns all prompts)"
    )


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ({"weight": 0.5}, 'message 2 has "weight" 0.5: neither 0 nor 1 (there is no part of a loss)'),
        ({"loss_weight": "no"}, 'message 2 has "loss_weight" no: neither 0 nor 1'),
        ({"weight": 0, "train": True}, "message 2 has marks that say the opposite of each other"),
        ({"train_detail": 1}, "message 2 has a train_detail that is no list of begin_offset, end_offset and train"),
        ({"train_detail": "all"}, "message 2 has a train_detail that is no list of begin_offset, end_offset and train"),
        (
            {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": True}]},
            "message 2 has a train_detail from 0 to 3, and its text has 3 characters",
        ),
    ],
)
def test_a_mark_that_is_not_known_is_refused(mark, reason):
    assert refused(marked({}, mark, {}, {})).startswith(reason)


def spans(*given):
    return [{"begin_offset": begin, "end_offset": end, "train": train} for begin, end, train in given]


@pytest.mark.parametrize(
    ("detail", "unlearnt", "parts"),
    [
        (spans((0, 1, True), (2, 3, False)), (), ((1, 2, 4),)),
        (spans((1, 1, True)), (), ((1, 0, 1), (1, 2, 4))),  # what no part names bears no loss
        (spans((0, 3, True)), (), ()),
        (spans((0, 3, False)), (1,), ()),
        ([], (), ()),
    ],
)
def test_parts_of_an_answer_are_characters_from_begin_to_end_both_included(detail, unlearnt, parts):
    conversation = read(marked({}, {}, {}, {"train_detail": detail}))
    assert (conversation.unlearnt, conversation.unlearnt_parts) == (unlearnt, parts)
    assert read(marked({}, {}, {}, {"train_detail": detail, "train": False})).unlearnt == (1,)


def test_a_part_of_a_content_can_have_a_mark_of_its_own():
    parts = [{"type": "text", "text": "go", "train": False}, {"type": "text", "text": "od", "train": True}]
    assert read(marked({}, {}, {}, {"content": parts})).unlearnt_parts == ((1, 0, 2),)
    assert read(marked({}, {}, {}, {"content": [parts[0]]})).unlearnt == (1,)
    assert refused(marked({}, {}, {"content": [parts[1]]}, {})).startswith(
        "message 3 is of user and marked to be learnt"
    )
    call = [{"type": "tool_use", **ARGUMENTS, "train": False}]
    assert refused(marked({}, {}, {}, {"content": call})).startswith("message 4 has a mark on a part that is not text")


def test_with_tools_answers_are_numbered_by_the_assistants_messages():
    messages = [WITH_TOOLS[0], {**WITH_TOOLS[1], "weight": 0}, *WITH_TOOLS[2:]]
    assert read(messages).unlearnt == (0,)
    messages = [*WITH_TOOLS, *listed(("user", "c")), {"role": "assistant", "content": "good", "train": False}]
    conversation = read(messages)
    assert conversation.unlearnt == (2,)
    assert len(conversation.history) == 2


# -- the whole law -----------------------------------------------------------------------------------------------------

MARKED = "violet words that stand in no other place"


def places(key, value):
    """A conversation with the key in a message of each role, a part, a call, the function of a call, a tool."""
    yield [{**listed(PAIR[0])[0], key: value}, *listed(PAIR[1])], []
    yield [*listed(PAIR[0]), {**listed(PAIR[1])[0], key: value}], []
    yield [*WITH_TOOLS[:2], {**WITH_TOOLS[2], key: value}, WITH_TOOLS[3]], []
    yield [*listed(PAIR[0]), {"role": "assistant", "content": [{"type": "text", "text": "So.", key: value}]}], []
    yield [*WITH_TOOLS[:1], {"role": "assistant", "tool_calls": [{**CALL, key: value}]}], []
    yield [*WITH_TOOLS[:1], {"role": "assistant", "tool_calls": [{**CALL, "function": {**ARGUMENTS, key: value}}]}], []
    yield listed(*PAIR), [{**TOOL, key: value}]
    yield listed(*PAIR), [{**TOOL["function"], key: value}]


@pytest.mark.parametrize("value", [MARKED, [MARKED], {"a": MARKED}, [{"type": "text", "text": MARKED}]])
def test_what_a_key_holds_is_carried_or_refused_or_known_to_be_no_part_of_what_is_said(value):
    carried = 0
    for key in sorted(KNOWN | {"foo", "audio", "images", "context", "summary", "mask"}):
        for messages, tools in places(key, value):
            try:
                conversation = read(messages, tools=tools)
            except ValueError:
                continue
            here = MARKED in f"{conversation}"
            assert here or key in HARMLESS or key in ROLE_KEYS, (key, messages, tools)
            carried += here
    assert carried > 20


# -- what is not carried -----------------------------------------------------------------------------------------------

LONG = "The rent rises by three percent each year."


@pytest.mark.parametrize(
    ("key", "value", "counted"),
    [
        ("hint", "Use the map", True),  # of no known key even a label
        ("level", 3, True),
        ("metadata", {"doc": LONG}, True),
        ("citations", [{"id": 1, "quote": LONG}], True),
        ("source", "维基百科自由的百科全书之一", True),
        ("metadata", {"split": "train", "url": "https://a.example/some/long/path/to/it"}, False),
        ("created", "Sat Nov 28 23:24:22 UTC 2026", False),
        ("id", "1c9a0f5e-7d0f-4c6e-9f3a-0a4c6d0c6c52", False),
        ("logprobs", [0.5] * 1000, False),
        ("hint", None, False),
        ("hint", "", False),
    ],
)
def test_what_a_key_holds_and_nothing_carries_is_counted(key, value, counted):
    messages = listed(*PAIR)
    messages[0][key] = value
    conversation, repaired = conversation_from(messages)
    assert conversation == ANSWERED
    assert repaired == Counter({f'message key "{key}" not used': 1} if counted else {})


def test_words_beside_a_text_in_a_part_are_counted():
    messages = [{"role": "user", "content": [{"type": "text", "text": "Why?", "citations": [LONG]}]}, listed(*PAIR)[1]]
    assert conversation_from(messages) == (ANSWERED, Counter({'message key "citations" not used': 1}))


@pytest.mark.parametrize("turns", ["merge", "drop"])
def test_of_texts_in_turn_the_last_without_an_answer_is_left_out(turns):
    conversation, repaired = conversation_from(["Why?", "So.", "And?"], turns=turns)
    assert (conversation, repaired) == (ANSWERED, Counter({"question after the last answer left out": 1}))
    assert "has no answer (data.turns=drop leaves it out)" in refused(["Why?", "So.", "And?"])
    assert refused(["Why?"], turns=turns).endswith(
        "1 text without roles, read as user and assistant in turn: the last one has no answer"
    )


def test_an_empty_system_text_is_counted_since_a_template_may_have_another():
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "a"}]
    messages.append({"role": "assistant", "content": "b"})
    conversation, repaired = conversation_from(messages)
    assert (conversation.system, dict(repaired)) == ("", {"empty system text left out": 1})
