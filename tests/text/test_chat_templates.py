import dataclasses
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ift.data.contract.examples import broken_law, encode
from ift.errors import ConfigError, WeightsError
from ift.text.chat_shapes import _mark
from ift.text.chat_templates import ChatTemplate, read_template, template_from
from ift.text.conversations import Conversation
from ift.text.encoding import encode_pieces, encode_prompt
from ift.text.jinja_process import start
from ift.text.templates import Piece, Segment, Template
from ift.text.tokenizers import END_OF_TEXT
from tests.text.chats import (
    BOTH,
    CHATML,
    DIALOGPT,
    GEMMA,
    LLAMA2,
    ONE,
    STYLES,
    SYSTEM,
    THREE,
    TOKENS,
    TOOL_STYLES,
    chat,
    marked,
    messages_of,
    spelled,
)

# ----------------------------------------------------------------------------------------------------------------------
# Jinja as our pieces

UNSUPERVISED_SYSTEM = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nName a color.<|im_end|>\n"
    "<|im_start|>assistant\n«Red.<|im_end|>»",
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nName a color. [/INST]« Red. »",
    "zephyr": "<|system|>\nBe brief.¶\n<|user|>\nName a color.¶\n<|assistant|>\n«Red.»",
    "alpaca": "Be brief.\n\n### Instruction:\nName a color.\n\n### Response:\n«Red.»",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nName a color.<|end|>\n<|assistant|>\n«Red.<|end|>\n»",
    "dialogpt": "Be brief.¶Name a color.¶«Red.»",
}
CONVERSATIONS = {
    "chatml": "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n«Hello.<|im_end|>»\n"
    "<|im_start|>user\nName a color.<|im_end|>\n<|im_start|>assistant\n«Red.<|im_end|>»",
    "llama2": "<s>[INST] Hi! [/INST]« Hello. ¶»<s>[INST] Name a color. [/INST]« Red. »",
    "zephyr": "<|user|>\nHi!¶\n<|assistant|>\n«Hello.¶»\n<|user|>\nName a color.¶\n<|assistant|>\n«Red.»",
    "alpaca": "### Instruction:\nHi!\n\n### Response:\n«Hello.¶»\n\n"
    "### Instruction:\nName a color.\n\n### Response:\n«Red.»",
    "phi3": "<|user|>\nHi!<|end|>\n<|assistant|>\n«Hello.<|end|>\n»"
    "<|user|>\nName a color.<|end|>\n<|assistant|>\n«Red.<|end|>\n»",
    "gemma": "<s><start_of_turn>user\nHi!<end_of_turn>\n<start_of_turn>model\n«Hello.<end_of_turn>»\n"
    "<start_of_turn>user\nName a color.<end_of_turn>\n<start_of_turn>model\n«Red.<end_of_turn>»",
    "dialogpt": "Hi!¶«Hello.¶»Name a color.¶«Red.»",
}


@pytest.mark.parametrize("style", UNSUPERVISED_SYSTEM)
def test_a_system_text_stands_where_the_template_puts_it(style):
    assert marked(chat(STYLES[style]).pieces(SYSTEM)) == UNSUPERVISED_SYSTEM[style]


@pytest.mark.parametrize("style", CONVERSATIONS)
def test_answers_their_closings_and_their_ends_are_supervised(style):
    row = dataclasses.replace(ONE, history=(("Hi!", "Hello."),))
    assert marked(chat(STYLES[style]).pieces(row)) == CONVERSATIONS[style]
    last = marked(chat(STYLES[style], turns="last").pieces(row))
    assert last == CONVERSATIONS[style].replace("«", "", 1).replace("»", "", 1)
    assert all(piece.supervised for piece in chat(STYLES[style], mask=False).pieces(row))


@pytest.mark.parametrize("row", [ONE, SYSTEM, THREE, BOTH], ids=["one", "system", "three", "both"])
@pytest.mark.parametrize("style", STYLES)
def test_the_text_is_that_of_transformers(theirs, style, row):
    template = chat(STYLES[style])
    if template.missing_place(row):
        assert (style, template.missing_place(row)) == ("gemma", "system")
        return
    tokens = {"chat_template": STYLES[style], "tokenize": False, **dict(TOKENS)}
    whole = theirs.apply_chat_template(messages_of(row), **tokens)
    pieces = template.pieces(row)
    assert whole.removeprefix(spelled(pieces)).strip() in ("", "</s>")
    assert whole.startswith(spelled(pieces))
    prompt = theirs.apply_chat_template(messages_of(row, answered=False), add_generation_prompt=True, **tokens)
    assert spelled(template.render(row)[0]) == prompt


@pytest.mark.parametrize("row", [ONE, SYSTEM, THREE], ids=["one", "system", "three"])
@pytest.mark.parametrize("style", ["zephyr", "alpaca", "dialogpt"])
def test_the_ids_are_those_of_transformers_ends_included(theirs, trained, style, row):
    template = chat(STYLES[style], (("eos_token", END_OF_TEXT),))
    ids = theirs.apply_chat_template(
        messages_of(row, answered=False), chat_template=STYLES[style], add_generation_prompt=True, return_dict=False
    )
    assert encode_prompt(row, template, trained) == ids
    example = encode(template.pieces(row), trained, row=1)
    assert broken_law(example, trained) is None


texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.text("aZ \n\t{%}'<|im_end>/s[INST]\x1f", max_size=30)
said = texts.filter(str.strip)
rows = st.builds(
    Conversation,
    said,
    texts,
    said,
    system=texts,
    history=st.lists(st.tuples(said, said), max_size=3).map(tuple),
)


@settings(max_examples=150, deadline=None)
@given(style=st.sampled_from(sorted(set(STYLES) - {"gemma"})), row=rows)
def test_any_row_gives_the_text_of_transformers_and_its_answers_alone_are_supervised(theirs, style, row):
    template = chat(STYLES[style])
    pieces = template.pieces(row)
    whole = theirs.apply_chat_template(messages_of(row), chat_template=STYLES[style], tokenize=False, **dict(TOKENS))
    assert whole.startswith(spelled(pieces))
    assert whole[len(spelled(pieces)) :].strip() in ("", "</s>")
    answers = [answer for _, answer in row.history] + [row.output]
    around = {"chatml": ("", "<|im_end|>"), "llama2": (" ", " "), "phi3": ("", "<|end|>\n")}
    opening, closing = around.get(style, ("", ""))
    answers = [answer.strip() for answer in answers] if style == "llama2" else answers
    found = "".join(piece.text for piece in pieces if piece.supervised)
    assert found == "".join(opening + answer + closing for answer in answers)


def test_an_input_follows_its_instruction_after_an_empty_line():
    template = chat(CHATML)
    assert "<|im_start|>user\nName its color.\n\nsky<|im_end|>" in template.prompt(
        Conversation("Name its color.", "sky", "Blue.")
    )
    assert "<|im_start|>user\nsky<|im_end|>" in template.prompt(Conversation("", "sky", "Blue."))


def test_gpt2_begins_with_the_token_itself_since_its_bos_is_the_end_of_text():
    template = chat(GEMMA, (("bos_token", END_OF_TEXT), ("eos_token", END_OF_TEXT)))
    assert template.pieces(ONE)[0] == Piece("", supervised=False, end=True)
    assert END_OF_TEXT not in template.prompt(ONE)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "text",
    ["{{ 7*7 }}", "{% raise %}", "<|im_end|>", "</s>", END_OF_TEXT, _mark(0), _mark(1) + _mark(2), "{output}", "\x1f"],
)
def test_text_of_a_row_is_ordinary_text_whatever_it_spells(trained, style, text):
    template = chat(STYLES[style])
    hostile = Conversation(f"a{text}b", f"c{text}d", f"e{text}f", history=((f"g{text}h", f"i{text}j"),))
    plain = Conversation("ab", "cd", "ef", history=(("gh", "ij"),))
    assert template.render(hostile)[1].text.replace(f"e{text}f", "ef") == template.render(plain)[1].text
    assert spelled(template.pieces(hostile), "¶").count(text) - spelled(template.pieces(plain), "¶").count(text) == 5
    ids = [token for ids in encode_pieces(template.pieces(hostile), trained) for token in ids]
    assert ids.count(trained.end_of_text) == sum(piece.end for piece in template.pieces(plain))


def test_clean_takes_off_what_the_template_puts_around_an_answer():
    assert chat(CHATML).clean("Red.<|im_end|>\n", ONE) == "Red."
    assert chat(LLAMA2).clean(" Red. ", ONE) == "Red."
    no_header = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    assert marked(chat(no_header).pieces(ONE)) == "user: Name a color.\n«assistant: Red.»"
    assert chat(no_header).clean("assistant: Red.\n", ONE) == "Red."


def test_what_is_asked_of_the_model_in_the_last_answer_alone_is_supervised_there_alone():
    thinks = CHATML.replace(
        "m.content +", "('<think>\n\n</think>\n\n' if loop.last and m.role == 'assistant' else '') + m.content +"
    )
    row = dataclasses.replace(ONE, history=(("Hi!", "Hello."),))
    assert marked(chat(thinks).pieces(row)) == CONVERSATIONS["chatml"].replace("«Red", "«<think>\n\n</think>\n\nRed")


def test_a_date_is_always_the_same_one():
    assert "26 July 2024\n" in chat("{{ strftime_now('%d %B %Y\n') }}" + CHATML).prompt(ONE)


def test_many_turns_are_turns_as_well():
    row = dataclasses.replace(ONE, history=tuple((f"ask {n}", f"say {n}") for n in range(20)))
    assert marked(chat(DIALOGPT).pieces(row)).startswith("ask 0¶«say 0¶»ask 1¶«say 1¶»ask 2¶")
    assert sum(piece.end for piece in chat(DIALOGPT).pieces(row)) == 41


# ----------------------------------------------------------------------------------------------------------------------
# answers without a loss


@pytest.mark.parametrize("style", CONVERSATIONS)
def test_an_answer_that_its_row_marks_bears_no_loss_nor_does_its_end(style):
    row = dataclasses.replace(ONE, history=(("Hi!", "Hello."),), unlearnt=(0,))
    assert marked(chat(STYLES[style]).pieces(row)) == CONVERSATIONS[style].replace("«", "", 1).replace("»", "", 1)
    first, _, rest = CONVERSATIONS[style].partition("»")
    last = marked(chat(STYLES[style]).pieces(dataclasses.replace(row, unlearnt=(1,))))
    assert last == first + "»" + rest.replace("«", "").replace("»", "")


def test_a_part_of_an_answer_that_its_row_marks_is_a_piece_without_a_loss():
    row = Conversation("Hi!", "", "  Red, or so.", unlearnt_parts=((0, 5, 12),))
    assert marked(chat(CHATML).pieces(row)).endswith("«  Red», or so«.<|im_end|>»")
    assert marked(chat(LLAMA2).pieces(row)).endswith("[/INST]« Red», or so«. »")  # which strips it
    whole = dataclasses.replace(row, unlearnt_parts=((0, 5, 13),))
    assert marked(chat(CHATML).pieces(whole)).endswith("«  Red», or so.<|im_end|>")


@pytest.mark.parametrize("style", ["chatml", "llama2", "zephyr"])
def test_the_end_of_an_answer_without_a_loss_is_not_learnt_and_every_law_holds(trained, style):
    template = chat(STYLES[style], (("bos_token", "<s>"), ("eos_token", END_OF_TEXT)))
    row = dataclasses.replace(THREE, unlearnt=(1,), unlearnt_parts=((0, 1, 3), (2, 2, 4)))
    example = encode(template.pieces(row), trained, row=1)
    assert (example.ends, broken_law(example, trained)) == (False, None)
    learnt = encode(template.pieces(dataclasses.replace(row, unlearnt_parts=())), trained, row=1)
    assert (learnt.ends, broken_law(learnt, trained)) == (True, None)
    assert broken_law(dataclasses.replace(example, ends=True), trained).startswith("an end would be learnt")
    prompt = encode_prompt(row, template, trained)
    assert example.ids[: len(prompt)].tolist() == prompt == encode_prompt(THREE, template, trained)


# ----------------------------------------------------------------------------------------------------------------------
# conversations that are rendered themselves

CALL = {"type": "function", "id": "abcdefgh1", "function": {"name": "look_up", "arguments": {"word": "zebra", "n": 3}}}
TOOLS = [{"type": "function", "function": {"name": "look_up", "description": "It finds.", "parameters": {}}}]
RESULT = {"role": "tool", "tool_call_id": "abcdefgh1", "content": 'A "horse".'}


def messages(*parts, tools=(), **marks):
    """A conversation of messages; texts are those of user and assistant in turn."""
    roles = ("user", "assistant") * len(parts)
    given = [{"role": role, "content": p} if isinstance(p, str) else p for role, p in zip(roles, parts, strict=False)]
    answer = given[-1]["content"] or "a call"
    return Conversation("x", output=answer, chat=json.dumps({"messages": given, "tools": list(tools)}), **marks)


def answer(text="", **more):
    return {"role": "assistant", "content": text, **more}


CALLED = messages("What?", answer(tool_calls=[CALL]), RESULT, answer("A horse."), tools=TOOLS)
LAST_CALL = messages("What?", answer(tool_calls=[CALL]), tools=TOOLS)
RENDERED = {
    "called": CALLED,
    "last call": LAST_CALL,
    "tools": messages("What?", "A horse.", tools=TOOLS),
    "earlier": messages("Hi!", "Hello.", "What?", answer(tool_calls=[CALL]), tools=TOOLS),
    "reasoning": messages("What?", answer("A horse.", reasoning_content="Stripes.")),
    "thought": Conversation("What?", output="<think>\nStripes.\n</think>\n\nA horse."),
    "thoughts": Conversation(
        "What?", output="<think>\nStripes.\n</think>\n\nA horse.", history=(("Hi!", "<think>\nOh.\n</think>\nHello."),)
    ),
    "lines": Conversation("What?", output="\n\nA horse.\n"),
}
REFUSED = {  # with turns=last
    ("llama3", "reasoning"): "no place for its reasoning",
    ("mistral", "reasoning"): "no place for its reasoning",
}


@pytest.mark.parametrize("row", RENDERED)
@pytest.mark.parametrize("style", TOOL_STYLES)
def test_tools_and_reasoning_are_the_text_of_transformers_or_refused(theirs, style, row):
    source, tokens = TOOL_STYLES[style]
    template, conversation = chat(source, tokens, turns="last"), RENDERED[row]
    if (style, row) in REFUSED:
        assert REFUSED[style, row] in template.refusal(conversation)
        return
    assert template.refusal(conversation) is None
    value = json.loads(conversation.chat) if conversation.chat else {"messages": messages_of(conversation)}
    options = {"chat_template": source.replace("strftime_now('%d %b %Y')", "'26 Jul 2024'"), "tokenize": False}
    options |= {"tools": value.get("tools") or None, **dict(tokens)}
    whole = theirs.apply_chat_template(value["messages"], **options)
    eos = dict(tokens)["eos_token"]
    assert spelled(template.pieces(conversation), eos) == whole.removesuffix("\n").removesuffix(eos)
    prompt = theirs.apply_chat_template(value["messages"][:-1], add_generation_prompt=True, **options)
    assert spelled(template.render(conversation)[0], eos) == prompt


def test_all_that_the_model_writes_is_supervised_calls_and_reasoning_too():
    llama3, thinks = (chat(*TOOL_STYLES[style]) for style in ("llama3", "thinks"))
    call = '«{"name": "look_up", "parameters": {"word": "zebra", "n": 3}}¶»'
    assert marked(llama3.pieces(CALLED)).endswith(
        f'<|assistant|>\n{call}<|ipython|>\n"A \\"horse\\"."¶<|assistant|>\n«A horse.»'
    )
    thought = marked(thinks.pieces(RENDERED["reasoning"]))
    assert thought == "<|im_start|>user\nWhat?¶\n<|im_start|>assistant\n«<think>\nStripes.\n</think>\n\nA horse.»"
    last = marked(chat(*TOOL_STYLES["thinks"], turns="last").pieces(RENDERED["thoughts"]))
    assert "assistant\nHello.¶\n" in last  # the template drops earlier reasoning
    assert last.endswith("assistant\n«<think>\nStripes.\n</think>\n\nA horse.»")


def test_the_reference_is_the_answer_as_a_model_writes_it_that_has_learnt_it():
    llama3, thinks = (chat(*TOOL_STYLES[style]) for style in ("llama3", "thinks"))
    assert llama3.reference(LAST_CALL) == '{"name": "look_up", "parameters": {"word": "zebra", "n": 3}}'
    assert llama3.reference(CALLED) == "A horse."
    assert thinks.reference(RENDERED["reasoning"]) == "<think>\nStripes.\n</think>\n\nA horse."
    assert thinks.reference(Conversation("a", output=" b ")) == " b "


def test_messages_obey_marks_as_texts_do():
    llama3 = chat(*TOOL_STYLES["llama3"])
    assert marked(llama3.pieces(dataclasses.replace(CALLED, unlearnt=(0,)))).count("«") == 1
    assert marked(llama3.pieces(dataclasses.replace(CALLED, unlearnt=(1,)))).endswith("¶<|assistant|>\nA horse.")
    part = dataclasses.replace(CALLED, unlearnt_parts=((1, 0, 2),))
    assert marked(llama3.pieces(part)).endswith("<|assistant|>\nA «horse.»")
    lost = dataclasses.replace(LAST_CALL, chat=LAST_CALL.chat.replace('"content": ""', '"content": "So:"'))
    assert "has no place for its text beside a tool call" in llama3.refusal(lost)
    squeezes = CHATML.replace("m.content", "m.content.replace('a a', 'aa')")
    moved = Conversation("Hi!", output="a a", unlearnt_parts=((0, 0, 1),))
    assert "a part of it is marked as not to be learnt" in chat(squeezes).refusal(moved)


def test_a_template_that_changes_earlier_answers_learns_the_last_alone():
    source, tokens = TOOL_STYLES["thinks"]
    two = dataclasses.replace(ONE, history=(("Hi!", "Hello."),))
    for row in (two, RENDERED["thoughts"], CALLED):
        with pytest.raises(ConfigError, match=r"^prompt\.turns=all: the template chat writes an earlier answer in"):
            chat(source, tokens).refusal(row)
        assert chat(source, tokens, turns="last").refusal(row) is None
        assert chat(source, tokens, mask=False).refusal(row) is None
    assert chat(source, tokens).refusal(ONE) is None
    assert chat(source, tokens).refusal(dataclasses.replace(two, unlearnt=(0,))) is None
    # Mistral's changes where there are tools
    mistral = chat(*TOOL_STYLES["mistral"])
    assert mistral.refusal(two) is None
    assert "(prompt.turns=last learns" in mistral.refusal(RENDERED["earlier"])


def test_a_last_answer_without_its_usual_end_teaches_no_other_end():
    end = "{{ eos_token if loop.last and m.role == 'assistant' else '|' }}"
    only_last = "{% for m in messages %}{{ m.content }}" + end + "{% endfor %}"
    with pytest.raises(ConfigError, match=r"^prompt\.turns=all: "):
        chat(only_last).refusal(THREE)
    assert chat(only_last).refusal(ONE) is None


def test_what_a_template_leaves_out_is_named():
    chatml, llama3, mistral = chat(CHATML), *(chat(*TOOL_STYLES[style]) for style in ("llama3", "mistral"))
    assert "has no place for its tools (prompt.chat_template=" in chatml.refusal(CALLED)
    silent = messages("What?", answer(tool_calls=[CALL]))
    assert "has no place for its tool calls (" in chatml.refusal(silent)
    assert "has no place for its reasoning (" in chatml.refusal(RENDERED["reasoning"])
    earlier = messages("Hi!", answer("Hello.", reasoning_content="Oh."), "What?", "A horse.")
    assert chatml.refusal(earlier) is None  # of an earlier turn, the template's own rule
    two_calls = messages("What?", answer(tool_calls=[CALL, CALL]), tools=TOOLS)
    assert llama3.refusal(two_calls) == "the template chat raises TemplateError: one call at a time"
    wrong = CALLED.chat.replace("abcdefgh1", "c1")
    assert "ids of 9 characters" in mistral.refusal(dataclasses.replace(CALLED, chat=wrong))
    drops = "{% for m in messages if m.role != 'tool' %}{{ m.content ~ (m.tool_calls or '') + eos_token }}{% endfor %}"
    no_tools = dataclasses.replace(CALLED, chat=CALLED.chat.replace(json.dumps(TOOLS), "[]"))
    assert "has no place for its tool results (" in chat(drops).refusal(no_tools)
    cuts = CHATML.replace("m.content", "m.content.split('</think>')[-1]")
    assert "has no place for its reasoning (" in chat(cuts).refusal(RENDERED["thought"])


def test_reasoning_has_the_name_that_the_template_gives_it():
    template = chat(CHATML.replace("m.content", "(m.thinking or '') + m.content"))
    assert marked(template.pieces(RENDERED["reasoning"])).endswith("«Stripes.A horse.<|im_end|>»")


def test_text_of_messages_is_ordinary_text_whatever_it_spells(trained):
    source, tokens = TOOL_STYLES["llama3"]
    hostile = messages(
        "a<|eot|>b", answer("c<|eot|><|begin|>", tool_calls=[]), "{{ 7*7 }}", answer("<|eot|>", tool_calls=[])
    )
    hostile = dataclasses.replace(hostile, chat=hostile.chat.replace(', "tool_calls": []', ""))
    pieces = chat(source, tokens).pieces(hostile)
    assert marked(pieces).count("¶") == 4  # system, two questions, an answer
    assert "«c<|eot|><|begin|>¶»" in marked(pieces)
    assert marked(pieces).endswith("{{ 7*7 }}¶<|assistant|>\n«<|eot|>»")
    assert broken_law(encode(pieces, trained, row=1), trained) is None


@pytest.mark.parametrize("found", ["m.content|length > 9", "m.content.isupper()", "['</x>'][0] in m.content"])
def test_what_a_template_does_by_a_rule_that_cannot_be_seen_is_refused_with_the_first_rows(found):
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ '!' if @ }}{{ eos_token }}{% endfor %}"
    source = source.replace("@", found) + "{% if add_generation_prompt %}[assistant]{% endif %}"
    template = ChatTemplate("odd", source=source, special=(("eos_token", "<end>"),))
    with pytest.raises(ConfigError, match=r"odd writes some texts in another way .* \(prompt=alpaca or"):
        template.prepare([Conversation(text, output="b") for text in ("a", "WHAT IS IT", "what is </x>")])


def test_rows_of_a_chunk_are_rendered_in_one_process(monkeypatch):
    template = chat(*TOOL_STYLES["llama3"])
    begun = []
    monkeypatch.setattr(
        "ift.text.jinja_process.start", lambda *given, **how: begun.append(given) or start(*given, **how)
    )
    rows = [messages(f"{number}?", answer(f"{number}.", tool_calls=[CALL])) for number in range(50)]
    rows = [dataclasses.replace(row, chat=row.chat.replace('"content": "', '"content": " ')) for row in rows]
    template.prepare([*rows, ONE])
    assert len(begun) == 1
    assert all(f"«{number}.»" not in marked(template.pieces(row)) for number, row in enumerate(rows))
    template.pieces(ONE)
    assert len(begun) == 1


def test_a_date_is_stored_with_the_template_and_an_earlier_release_s_has_none(write, tmp_path):
    write("chat_template.jinja", "{{ strftime_now('%Y-%m-%d') }}" + CHATML)
    template = ChatTemplate.from_folder(tmp_path)
    assert template.to_json()["today"] == "2024-07-26"
    stored = {**template.to_json(), "today": "2025-01-02"}
    assert read_template(stored).prompt(ONE).startswith("2025-01-02<|im_start|>")
    del stored["today"]
    earlier = read_template(stored)
    assert "today" not in earlier.to_json()
    assert earlier.prompt(ONE) == template.prompt(ONE)
    with pytest.raises(WeightsError, match="not a chat template"):
        read_template({**stored, "today": "tomorrow"})


# ----------------------------------------------------------------------------------------------------------------------
# templates that are refused


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{% for m in messages %}", "is not valid Jinja: TemplateSyntaxError"),
        ("{{ raise_exception('not today') }}", "raises TemplateError: not today"),
        (CHATML.replace("m.content", "m.content.lower()"), "changes the user's text"),
        (CHATML.replace("m.content", "m.content | tojson"), "changes the user's text"),
        ("no messages at all", "leaves out the user's text"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "repeats the user's text"),
        ("{% for m in messages | reverse %}{{ m.content }}{% endfor %}", "puts the assistant's text in another place"),
        ("{% for m in messages[:2] %}{{ m.content }}{% endfor %}", "leaves out the user's text"),
        (CHATML.replace("assistant\n' }}{% endif", "bot\n' }}{% endif"), "a generation prompt that is not what stands"),
        (
            "{% for m in messages %}{{ m.content + ('!' if loop.last and m.role != 'user' else '?') }}{% endfor %}",
            "closes an earlier answer by other text than the last one",
        ),
        ("x" * 100_001, "has more than 100,000 characters"),
    ],
)
def test_a_template_that_does_not_give_a_conversation_back_is_refused_with_what_it_does(source, said):
    with pytest.raises(ConfigError, match=r"^prompt\.chat_template: ") as caught:
        chat(source)
    assert said in str(caught.value)


def test_a_system_text_without_a_place_is_known_before_it_is_rendered():
    assert chat(GEMMA).missing_place(SYSTEM) == "system"
    leaves_out = CHATML.replace("in messages", "in messages if m.role != 'system'")
    assert chat(leaves_out).missing_place(SYSTEM) == "system"
    assert chat(GEMMA).missing_place(ONE) is None
    assert chat(CHATML).missing_place(SYSTEM) is None
    with pytest.raises(ConfigError, match="raises TemplateError: no system role"):
        chat(GEMMA).render(SYSTEM)
    with pytest.raises(ConfigError, match="repeats the system's text"):
        chat("{{ messages[0].content if messages[0].role == 'system' }}" + CHATML)


def test_turns_must_be_known():
    with pytest.raises(ConfigError, match=r"prompt\.turns=first: must be one of all, last"):
        chat(CHATML, turns="first")


# ----------------------------------------------------------------------------------------------------------------------
# folders and JSON


@pytest.mark.parametrize(
    ("files", "eos"),
    [
        (
            {"chat_template.jinja": CHATML, "tokenizer_config.json": {"eos_token": "</s>", "chat_template": "no"}},
            "</s>",
        ),
        (
            {"tokenizer_config.json": {"chat_template": CHATML, "eos_token": {"content": "</s>"}, "pad_token": None}},
            "</s>",
        ),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": CHATML}]
                },
                "special_tokens_map.json": {"eos_token": "</s>"},
            },
            "</s>",
        ),
        ({"tokenizer_config.json": {"chat_template": CHATML, "tokenizer_class": "GPT2Tokenizer"}}, END_OF_TEXT),
        ({"chat_template.jinja": CHATML}, None),
    ],
)
def test_a_folder_gives_its_template_and_its_special_tokens(files, eos, write, tmp_path):
    for name, content in files.items():
        write(name, content)
    template = ChatTemplate.from_folder(tmp_path, turns="last")
    assert (template.name, template.source, template.mask, template.turns) == (tmp_path.name, CHATML, True, "last")
    assert dict(template.special).get("eos_token") == eos


def test_a_folder_that_was_written_here_gives_what_training_had(write, tmp_path):
    trained = chat(CHATML, (("eos_token", "<|im_end|>"),), today="2025-03-04")
    write("chat_template.jinja", "as it was exported")
    write("prompt.json", {**trained.to_json(), "hash": trained.hash})
    assert ChatTemplate.from_folder(tmp_path) == trained
    assert ChatTemplate.from_folder(tmp_path, turns="last") == dataclasses.replace(trained, turns="last")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no chat template"),
        ({"chat_template": [{"name": "tool_use", "template": CHATML}]}, "no chat template"),
        ([1], "no chat template"),
        (b"{", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
    ],
)
def test_a_folder_without_a_template_is_refused(content, said, write, tmp_path):
    write("tokenizer_config.json", content)
    with pytest.raises(ConfigError, match=said):
        ChatTemplate.from_folder(tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        ChatTemplate.from_folder(tmp_path / "missing")
    write("chat_template.jinja", b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        ChatTemplate.from_folder(tmp_path)


def test_a_template_of_either_kind_comes_back_from_json():
    own = chat(LLAMA2, mask=False, turns="last")
    again = read_template(json.loads(json.dumps({**own.to_json(), "hash": own.hash})))
    assert again == own
    assert again.hash == own.hash != chat(LLAMA2).hash
    segments = Template("small", (Segment("{instruction}"), Segment("{output}", supervised=True)))
    assert read_template(json.loads(json.dumps(segments.to_json()))) == segments


@pytest.mark.parametrize("value", [None, [], "x", {}, {"chat_template": 1}, {**chat(CHATML).to_json(), "special": []}])
def test_json_that_is_no_template_is_refused(value):
    with pytest.raises(WeightsError, match=r"prompt\.json: not a"):
        read_template(value)


def test_json_with_a_template_that_fails_is_refused():
    with pytest.raises(WeightsError, match=r"prompt.json: not a chat template: .*leaves out the user's text"):
        read_template({**chat(CHATML).to_json(), "chat_template": "x"})


def test_settings_name_a_folder_or_give_segments(write, tmp_path):
    write("chat_template.jinja", CHATML)
    segments = [SimpleNamespace(text=t, supervised="out" in t, when="always") for t in ("{instruction}", "{output}")]
    given = SimpleNamespace(name="own", mask=False, turns="last", segments=segments, chat_template=None)
    assert template_from(given) == Template.make("own", segments, mask=False, turns="last")
    given.chat_template = str(tmp_path)
    assert template_from(given) == ChatTemplate.from_folder(tmp_path, mask=False, turns="last")


def test_its_own_texts_can_be_looked_at_like_those_of_segments():
    texts = [segment.text for segment in chat(CHATML).segments]
    assert texts[:2] == ["<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"]
    assert hash(chat(CHATML)) == hash(chat(CHATML))
