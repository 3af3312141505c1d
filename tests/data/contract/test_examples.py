from dataclasses import replace

import numpy as np
import pytest
import tiktoken

from ift.data.contract.examples import (
    TooLong,
    broken_law,
    encode,
    keep_a_part,
    length_summary,
    make_example,
    what_keeps_a_part,
)
from ift.data.reading.messages import conversation_from
from ift.data.reading.rows import Row, parts_of
from ift.text.bpe import GPT2_PATTERN
from ift.text.chat_templates import ChatTemplate
from ift.text.encoding import encode_prompt, made_for, turn_end
from ift.text.templates import Piece, Segment, Template
from ift.text.tokenizers import END_OF_TEXT, Tokenizer

SEGMENTS = (Segment("Q:{instruction}"), Segment("+{input}", when="input"), Segment("\nA:"), Segment("{output}", True))
TEMPLATE = Template("small", SEGMENTS)
UNMASKED = Template("small", SEGMENTS, mask=False)
CLOSED = Template("closed", (*SEGMENTS, Segment("#", supervised=True)))
SYSTEM = Template("with system", (Segment("{system}", when="system"), *SEGMENTS))


def row(instruction, given, output):
    return Row(instruction, given, output, file="rows.json", number=7)


@pytest.fixture
def make(byte_tokenizer):
    """make(row, max_length, policy): an example of bytes, so that lengths are those of the text."""

    def make(row, max_length=100, too_long="drop", template=TEMPLATE, truncate="end"):
        return make_example(row, template, byte_tokenizer, max_length=max_length, too_long=too_long, truncate=truncate)

    make.tokenizer = byte_tokenizer
    return make


def text(example):
    return bytes(example.ids.tolist()).decode()


def supervised_text(example):
    return bytes(example.ids[example.supervised].tolist()).decode()


def test_the_mask_begins_at_the_first_token_of_the_response(make):
    example = make(row("hi", "", "yo"))
    assert text(example) == "Q:hi\nA:yo"
    assert example.supervised.astype(int).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    assert (example.ids.dtype, example.ends, example.row, example.truncated) == (np.int32, True, 7, None)


def test_the_input_stands_in_the_prompt_where_there_is_one(make):
    example = make(row("hi", "you", "yo"))
    assert text(example) == "Q:hi+you\nA:yo"
    assert supervised_text(example) == "yo"


def test_mask_false_supervises_every_token(make):
    example = make(row("hi", "", "yo"), template=UNMASKED)
    assert example.supervised.all()
    assert example.targets == len("Q:hi\nA:yo")  # the first token is no target, the end of the text is one


def test_targets_are_the_supervised_tokens_and_the_end(make):
    assert make(row("hi", "", "yo")).targets == 3  # y, o and end-of-text
    assert make(row("hi", "", "yo"), template=CLOSED).targets == 4  # the closing # too


def test_a_marker_in_the_text_of_a_row_moves_no_boundary(make):
    example = make(row("{output}\nA:no", "\nA:", "A: \nA:yes"))
    assert supervised_text(example) == "A: \nA:yes"


def test_prompt_and_response_are_encoded_apart_so_that_no_token_spans_the_border(gpt2_tokenizer):
    template = Template("tight", (Segment("{instruction}"), Segment("{output}", supervised=True)))
    example = make_example(row("hello", "", "world"), template, gpt2_tokenizer, max_length=10, too_long="drop")
    apart = gpt2_tokenizer.encode("hello") + gpt2_tokenizer.encode("world")
    assert example.ids.tolist() == apart == [31373, 6894]
    joined = make_example(row("a", "", "b"), template, gpt2_tokenizer, max_length=10, too_long="drop")
    assert joined.ids.tolist() == [64, 65]  # "ab" in one piece would be the one token 397
    assert gpt2_tokenizer.encode("ab") == [397]


@pytest.mark.parametrize("name", ["byte_tokenizer", "gpt2_tokenizer"])
@pytest.mark.parametrize("given", [row("Say it.", "", " spaced"), row("Sum up:", "one\n\ntwo ", "\n1")])
def test_the_prompt_at_inference_is_the_tokens_before_the_response_in_training(name, given, request):
    tokenizer = request.getfixturevalue(name)
    example = make_example(given, TEMPLATE, tokenizer, max_length=100, too_long="drop")
    prompt = encode_prompt(given, TEMPLATE, tokenizer)
    assert example.ids[: len(prompt)].tolist() == prompt
    assert example.supervised.tolist() == [False] * len(prompt) + [True] * (example.tokens - len(prompt))


SIXTEEN = row("abcd", "efg", "xyz")  # "Q:abcd+efg\nA:xyz": 16 tokens


def test_a_row_that_fits_exactly_is_left_alone(make):
    for policy in ("drop", "error", "truncate_prompt", "truncate_response"):
        example = make(SIXTEEN, 16, policy)
        assert (text(example), example.truncated, example.ends) == ("Q:abcd+efg\nA:xyz", None, True)


@pytest.mark.parametrize("policy", ["drop", "error"])
def test_drop_and_error_refuse_with_both_lengths(make, policy):
    with pytest.raises(TooLong, match=r"^16 tokens, more than 15$"):
        make(SIXTEEN, 15, policy)


def test_truncate_prompt_shortens_the_longer_field_and_keeps_the_template_and_the_response(make):
    assert text(make(SIXTEEN, 15, "truncate_prompt")) == "Q:abc+efg\nA:xyz"
    assert text(make(SIXTEEN, 14, "truncate_prompt")) == "Q:ab+efg\nA:xyz"
    long_input = row("abcd", 40 * "e", "xyz")
    example = make(long_input, 20, "truncate_prompt")
    assert text(example) == "Q:abcd+eeeeeee\nA:xyz"
    assert (example.truncated, example.ends, supervised_text(example)) == ("prompt", True, "xyz")


def test_truncate_prompt_leaves_no_half_character(make):
    example = make(row("aé", "", "xyz"), 11, "truncate_prompt")  # "Q:aé\nA:xyz" is 11 bytes
    assert text(example) == "Q:aé\nA:xyz"
    example = make(row("aéé", "", "xyz"), 12, "truncate_prompt")
    assert text(example) == "Q:aé\nA:xyz"


def test_truncate_prompt_can_keep_the_end_where_questions_stand(make):
    asked = row("a long text. Why?", "", "xyz")  # "Q:" + 17 + "\nA:xyz" is 25 bytes
    example = make(asked, 12, "truncate_prompt", truncate="start")
    assert (text(example), example.truncated, example.ends) == ("Q:Why?\nA:xyz", "prompt start", True)
    assert text(make(asked, 12, "truncate_prompt")) == "Q:a lo\nA:xyz"
    assert text(make(row("éa", "", "xyz"), 10, "truncate_prompt", truncate="start")) == "Q:a\nA:xyz"


FAMILY, ACCENT = "\U0001f469\u200d\U0001f467", "e\u0301"  # 4 + 3 + 4 bytes and 1 + 2, each seen as one character


@pytest.mark.parametrize("character", [FAMILY, ACCENT, "\U0001f44d\U0001f3fd"])
def test_no_part_of_a_character_is_left_at_either_end(make, character):
    size = len(character.encode())
    for cut in range(1, size + 1):
        whole = row(f"{character}a{character}", "", "xyz")
        length = 2 * size + 1 + 8 - cut
        assert text(make(whole, length, "truncate_prompt")) == f"Q:{character}a\nA:xyz"
        assert text(make(whole, length, "truncate_prompt", truncate="start")) == f"Q:a{character}\nA:xyz"


def talk(*turns, **marks):
    *history, (instruction, output) = turns
    return Row(instruction, output=output, history=tuple(history), file="f", number=7, **marks)


def shown(example):
    return "".join("⏎" if token == 256 else chr(token) for token in example.ids.tolist())


THREE = talk(("a", "1"), ("b", "2"), ("c", "3"))  # each turn is "Q:a\nA:1", 7 tokens; two of them have an end: 23


def test_old_turns_are_dropped_from_the_front_until_the_rest_fits(make):
    assert make(THREE, 23, "drop_turns").truncated is None
    for length, whole in ((22, "Q:b\nA:2⏎Q:c\nA:3"), (15, "Q:b\nA:2⏎Q:c\nA:3"), (14, "Q:c\nA:3"), (7, "Q:c\nA:3")):
        example = make(THREE, length, "drop_turns")
        assert (shown(example), example.truncated, example.ends) == (whole, "turns", True)
        assert broken_law(example, make.tokenizer) is None
    assert make(THREE, 15, "drop_turns").shorter == talk(("b", "2"), ("c", "3"))


def test_a_long_last_turn_does_not_take_good_earlier_ones_with_it(make):
    long = talk(("a", "1"), ("b", "2"), ("c", 30 * "3"))
    assert shown(make(long, 20, "drop_turns")) == "Q:a\nA:1⏎Q:b\nA:2"
    assert shown(make(long, 10, "drop_turns")) == "Q:b\nA:2"  # the latest that fit
    middle = talk(("a", "1"), ("b", 30 * "2"), ("c", "3"))
    assert shown(make(middle, 20, "drop_turns")) == "Q:c\nA:3"


def test_many_turns_are_dropped_in_few_steps_and_as_few_as_it_takes(make):
    many = talk(*((f"{i:03}", "x") for i in range(200)))
    example = make(many, 100, "drop_turns")  # 9 tokens a turn, and an end between two
    assert shown(example).startswith("Q:190\n")
    assert example.tokens == 99


def test_turns_are_not_dropped_where_nothing_would_be_learnt(make):
    for row, length in ((talk(("a", 30 * "1")), 20), (talk(("a", 30 * "1"), ("b", 30 * "2")), 20)):
        with pytest.raises(TooLong, match=r"tokens, more than 20: (in one turn|no turn with an answer to learn fits)"):
            make(row, length, "drop_turns")


def test_truncate_prompt_says_where_earlier_turns_fill_the_context(make):
    with pytest.raises(TooLong, match=r"the earlier turns fill the context \(data.too_long=drop_turns leaves"):
        make(THREE, 12, "truncate_prompt")
    with pytest.raises(TooLong, match="the response alone fills the context"):
        make(talk(("a", "1"), ("b", 30 * "2")), 12, "truncate_prompt")


def test_truncate_prompt_refuses_where_the_response_alone_is_too_long(make):
    with pytest.raises(TooLong, match="the response alone fills the context"):
        make(row("ab", "", 30 * "x"), 20, "truncate_prompt")


def test_truncate_response_cuts_the_response_and_never_learns_an_end_there(make):
    example = make(SIXTEEN, 15, "truncate_response")
    assert text(example) == "Q:abcd+efg\nA:xy"
    assert (example.truncated, example.ends, supervised_text(example), example.targets) == ("response", False, "xy", 2)


@pytest.mark.parametrize("template", [TEMPLATE, UNMASKED])
def test_truncate_response_refuses_where_no_token_of_the_response_is_left(make, template):
    assert supervised_text(make(SIXTEEN, 14, "truncate_response", template)).endswith("x")
    with pytest.raises(TooLong, match="the prompt alone fills the context"):
        make(SIXTEEN, 13, "truncate_response", template)


@pytest.mark.parametrize(
    ("parts", "learnt", "ends"),
    [
        ((), "xyz#", True),
        (((0, 1, 2),), "xz#", True),
        (((0, 2, 3),), "xy", False),  # the last character, so the closing and the end as well
        (((0, 0, 3),), "", False),
    ],
)
def test_parts_without_a_loss_are_not_targets_and_every_law_holds(make, byte_tokenizer, parts, learnt, ends):
    example = make(replace(SIXTEEN, unlearnt_parts=parts), template=CLOSED)
    assert (text(example), supervised_text(example)) == ("Q:abcd+efg\nA:xyz#", learnt)
    assert (example.ends, example.truncated, example.targets) == (ends, None, len(learnt) + ends)
    assert broken_law(example, byte_tokenizer) is None
    assert broken_law(replace(example, ends=not ends), byte_tokenizer).startswith("an end would be learnt")


def test_an_answer_without_a_loss_has_no_end_to_learn_and_one_before_it_has(make, byte_tokenizer):
    conversation = replace(SIXTEEN, history=(("hi", "yo"),), unlearnt=(1,))
    example = make(conversation, template=CLOSED)
    assert example.ids[example.supervised].tolist() == [*b"yo#", byte_tokenizer.end_of_text]
    assert (example.ends, broken_law(example, byte_tokenizer)) == (False, None)
    cut = make(conversation, 25, "truncate_response", template=CLOSED)
    assert (cut.ends, cut.truncated, broken_law(cut, byte_tokenizer)) == (False, "response", None)


def test_what_is_marked_and_learnt_all_the_same_breaks_a_law(byte_tokenizer):
    wrong = encode([Piece("a", False), Piece("b", True, unlearnt=True)], byte_tokenizer, 1)
    assert broken_law(wrong, byte_tokenizer) == "what is marked as not to be learnt would be learnt"


@pytest.mark.parametrize(
    ("long", "helps"),
    [
        (row("a" * 60, "", "bb"), ["truncate_prompt"]),
        (row("aa", "", "b" * 60), ["truncate_response"]),
        (row("a" * 20, "", "b" * 30), ["truncate_prompt", "truncate_response"]),
        (replace(row("aa", "", "bb"), system="s" * 60), []),
        (replace(row("aa", "", "bb"), history=(("a" * 50, "b"),)), ["drop_turns"]),
    ],
)
def test_only_what_fits_a_row_is_said_to_keep_a_part_of_it(byte_tokenizer, long, helps):
    assert what_keeps_a_part(long, SYSTEM, byte_tokenizer, max_length=45) == helps


def test_of_text_alone_only_its_end_can_go(byte_tokenizer):
    template = Template("none", (Segment("{output}", supervised=True),))
    long = row("", "", "a" * 50)
    assert what_keeps_a_part(long, template, byte_tokenizer, max_length=45) == ["truncate_response"]
    assert keep_a_part(["truncate_response"]) == "truncate_response keeps a part"
    assert (keep_a_part(["a", "b"]), keep_a_part([])) == ("a, b keep a part", "")


def test_plain_text_is_learnt_from_its_first_token_to_its_end(make, byte_tokenizer):
    example = make(row("", "", "abc"), template=Template("none", (Segment("{output}", True),)))
    assert example.ids.tolist() == [byte_tokenizer.end_of_text, *b"abc"]
    assert (example.supervised.tolist(), example.targets) == ([False, True, True, True], 4)
    assert broken_law(example, byte_tokenizer) is None


def test_lengths_are_summed_up_in_percentiles_of_whole_tokens():
    assert length_summary(list(range(1, 101))) == {"mean": 50.5, "p50": 51, "p90": 91, "p99": 100, "max": 100}
    assert length_summary([3]) == {"mean": 3.0, "p50": 3, "p90": 3, "p99": 3, "max": 3}
    assert length_summary([]) == {}


def test_of_messages_the_longest_text_of_the_last_prompt_is_cut_a_tools_result_too(byte_tokenizer):
    source = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{{ eos_token }}"
    )
    source += "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    template = ChatTemplate("small", source=source, special=(("eos_token", "<end>"),))
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    messages = [
        {"role": "user", "content": "where?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny " * 20},
        {"role": "assistant", "content": "It is."},
    ]
    conversation, _ = conversation_from(messages)
    whole = Row(*parts_of(conversation), file="a", number=1)
    length = make_example(whole, template, byte_tokenizer, max_length=1000, too_long="drop").tokens
    cut = make_example(whole, template, byte_tokenizer, max_length=length - 12, too_long="truncate_prompt")
    shown = byte_tokenizer.decode(cut.ids[cut.ids != byte_tokenizer.end_of_text].tolist())
    assert ("[user]where?" in shown, shown.count("sunny")) == (True, 18)
    with pytest.raises(TooLong, match="answers, reasoning and tools fill the context"):
        make_example(whole, template, byte_tokenizer, max_length=60, too_long="truncate_prompt")


@pytest.fixture(scope="module")
def marked():
    """Bytes with two more special tokens, and a template of them."""
    special = {END_OF_TEXT: 256, "<a>": 257, "<e>": 258}
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("marked", pat_str=GPT2_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    tokenizer = Tokenizer(encoding)
    tokenizer.special, tokenizer.special_ids = frozenset(special.values()), special
    segments = (Segment("\n", when="later"), Segment("<a>{instruction}<a>"), Segment("{output}<e>", supervised=True))
    return tokenizer, made_for(Template("marked", segments), tokenizer)


def test_special_tokens_of_the_template_are_single_ids_and_its_end_is_learnt(marked):
    tokenizer, template = marked
    one = make_example(row("q<e>", "", "<a>"), template, tokenizer, max_length=99, too_long="error")
    assert one.ids.tolist() == [257, *b"q<e>", 257, *b"<a>"]  # what the row spells is text
    assert (one.ends, one.targets, turn_end(template, tokenizer)) == (True, 4, 258)
    two = replace(row("q", "", "z"), history=(("p", "y"),))
    both = make_example(two, template, tokenizer, max_length=99, too_long="error")
    assert both.ids.tolist() == [257, *b"p", 257, *b"y", 258, *b"\n", 257, *b"q", 257, *b"z"]
    assert both.ids[both.supervised].tolist() == [*b"y", 258, *b"z"]
    assert [broken_law(example, tokenizer) for example in (one, both)] == [None, None]
    last = make_example(two, replace(template, turns="last"), tokenizer, max_length=99, too_long="error")
    assert last.ids[last.supervised].tolist() == [*b"z"]


@pytest.mark.parametrize("wrong", [{2: 258}, {0: 97}, {4: 256}, {4: 97}, {1: 258}])
def test_a_special_token_that_is_moved_put_or_lost_breaks_a_law(marked, wrong):
    tokenizer, template = marked
    conversation = replace(row("q", "", "z"), history=(("p", "y"),))
    example = make_example(conversation, template, tokenizer, max_length=99, too_long="error")
    ids = [wrong.get(place, id) for place, id in enumerate(example.ids.tolist())]
    assert "stands" in broken_law(replace(example, ids=np.array(ids, dtype=np.int32)), tokenizer)


@pytest.mark.parametrize("length", [7, 9, 11])
def test_a_cut_keeps_the_laws_of_special_tokens(marked, length):
    tokenizer, template = marked
    cut = make_example(row("qqq", "", "xyzxyz"), template, tokenizer, max_length=length, too_long="truncate_response")
    assert cut.tokens == min(length, 11)
    assert (cut.ends, broken_law(cut, tokenizer)) == (length == 11, None)
    short = make_example(row("q" * 20, "", "xyz"), template, tokenizer, max_length=9, too_long="truncate_prompt")
    assert (short.ids.tolist(), broken_law(short, tokenizer)) == ([257, *b"qqqq", 257, *b"xyz"], None)
