from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ift.text.chat_template_export import export_chat_template
from ift.text.chat_templates import ChatTemplate
from ift.text.conversations import Conversation
from ift.text.encoding import encode_pieces, encode_prompt
from ift.text.templates import Segment, Template
from ift.text.tokenizers import END_OF_TEXT
from tests.text.chats import (
    ALPACA,
    BOTH,
    LLAMA2,
    ONE,
    PHI3,
    STYLES,
    SYSTEM,
    THREE,
    TOOL_STYLES,
    chat,
    messages_of,
    of_family,
    spelled,
)  # fmt: skip


def shipped():
    for path in sorted((Path(__file__).parents[2] / "conf" / "prompt").glob("*.yaml")):
        value = yaml.safe_load(path.read_text())
        defaults = {"supervised": False, "when": "always"}
        segments = [SimpleNamespace(**{**defaults, **segment}) for segment in value.get("segments") or []]
        if segments:
            yield Template.make(value["name"], segments, mask=value["mask"])


AWKWARD = Template(
    "awkward",
    (
        Segment('{{ "\\n" }} {%- raw -%} {# \' " \\ \t é 日 😀 \\u0041 }} \n%}', when="no_system"),
        Segment("[{system}] ", when="system"),
        Segment(" again ", when="later"),
        Segment("{instruction}->{output}!", supervised=True, when="no_input"),
        Segment("{instruction}+{input}->{output}?", supervised=True, when="input"),
        Segment(" #done ", when="no_input"),
        Segment("learnt#}\n", supervised=True),
    ),
)
EXPORTED = {template.name: template for template in [*shipped(), AWKWARD] if not template.plain}


@pytest.mark.parametrize("row", [ONE, SYSTEM, THREE, BOTH], ids=["one", "system", "three", "both"])
@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_template_gives_transformers_our_tokens(theirs, trained, name, row):
    template, source = EXPORTED[name], export_chat_template(EXPORTED[name])
    if template.missing_place(row):
        with pytest.raises(Exception, match="trained without system messages"):
            theirs.apply_chat_template(messages_of(row), chat_template=source)
        return
    options = {"chat_template": source, "return_dict": False}
    asked = messages_of(row, answered=False)
    prompt = encode_prompt(row, template, trained)
    assert theirs.apply_chat_template(asked, add_generation_prompt=True, **options) == prompt
    whole = [token for ids in encode_pieces(template.pieces(row), trained) for token in ids]
    assert theirs.apply_chat_template(messages_of(row), **options) == [*whole, trained.end_of_text]


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_template_takes_an_input_beside_the_content(theirs, name):
    row = Conversation("Name its color.", "sky", "Blue.")
    message = {"role": "user", "content": row.instruction, "input": row.input}
    text = theirs.apply_chat_template([message], chat_template=export_chat_template(EXPORTED[name]), tokenize=False)
    assert text == EXPORTED[name].prompt(row)


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_template_comes_back_with_the_same_pieces(name, trained, tmp_path):
    template = EXPORTED[name]
    trained.save(tmp_path, context_length=64)
    (tmp_path / "chat_template.jinja").write_text(export_chat_template(template), encoding="utf-8")
    again = ChatTemplate.from_folder(tmp_path, mask=template.mask)
    for row in (ONE, SYSTEM, THREE, BOTH):
        assert again.missing_place(row) == template.missing_place(row)
        if not template.missing_place(row) and template is not AWKWARD:
            assert again.render(row) == template.render(row)
        elif not template.missing_place(row):
            assert spelled(again.pieces(row)) == spelled(template.pieces(row))


def test_an_exported_template_can_be_read_by_a_person():
    template = Template("small", (Segment("Q: {instruction}\n"), Segment("A: {output}.", supervised=True)))
    assert export_chat_template(template).splitlines()[-5:] == [
        r"""  {{- "Q: " ~ instruction ~ "\n" -}}""",
        """  {{- "A: " -}}""",
        """  {%- if answer -%}{{- text_of(answer["content"]) ~ "." -}}{%- endif -%}""",
        "  {%- if answer -%}{{- eos_token -}}{%- endif -%}",
        "{%- endfor -%}",
    ]


def test_an_exported_template_refuses_messages_that_are_no_conversation(theirs):
    source = export_chat_template(EXPORTED["chatml"])
    for roles in (["assistant"], ["user", "user"], ["user", "system"], ["system", "assistant"]):
        messages = [{"role": role, "content": "x"} for role in roles]
        with pytest.raises(Exception, match="user and assistant in turn"):
            theirs.apply_chat_template(messages, chat_template=source)


def test_a_chat_template_is_exported_as_it_came():
    assert export_chat_template(chat(PHI3)).endswith("\n" + PHI3)  # after what makes texts of lists of parts
    source = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}"
    )
    source += "\n{% endfor %}"
    assert export_chat_template(chat(source)) == source  # it reads them itself


def test_a_model_of_plain_text_has_no_template_for_instructions(theirs):
    [none] = [template for template in shipped() if template.plain]
    with pytest.raises(Exception, match="trained on plain text, without instructions"):
        theirs.apply_chat_template(messages_of(ONE), chat_template=export_chat_template(none))


def test_a_date_of_the_clock_is_exported_as_the_date_of_training(theirs):
    clock = "{% if strftime_now is defined %}{{ strftime_now( '%d %b %Y' ) + '\n' }}{% endif %}"
    for template in (chat(clock + PHI3), chat(clock + PHI3, today="2025-03-04")):
        text = theirs.apply_chat_template(
            messages_of(ONE, answered=False),
            chat_template=export_chat_template(template),
            add_generation_prompt=True,
            tokenize=False,
        )
        assert text == template.prompt(ONE)
        assert text[:12] == ("04 Mar 2025\n" if template.today else "26 Jul 2024\n")


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "gemma3", "smollm2", "deepseek"])
def test_a_model_s_own_template_is_exported_as_it_is(family):
    template = of_family(family)
    assert export_chat_template(template, names=dict(template.special)) == template.source
    assert export_chat_template(template, names=dict(template.special), plain=True) == template.source


def test_of_a_model_s_own_template_the_clock_alone_is_stopped(tmp_path):
    llama3 = of_family("llama3")
    own = export_chat_template(llama3, names=dict(llama3.special))
    assert own == llama3.source.replace("strftime_now('%d %b %Y')", '"26 Jul 2024"')
    other = export_chat_template(llama3, names={**dict(llama3.special), "bos_token": "<s>"})
    assert other == '{% set bos_token = "<|begin|>" %}\n' + own


# -- what other readers of Jinja know ----------------------------------------------------------------------------------


class Plain:
    """Jinja as llama.cpp's bindings set it up: no tags besides its own."""

    def __init__(self, source):
        def refuse(message):
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = refuse
        self.template = environment.from_string(source)

    def text(self, messages):
        tokens = dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT)
        return self.template.render(messages=messages, add_generation_prompt=True, **tokens)


GENERATIONS = {
    "alpaca": ALPACA,
    "spaces": "{% for m in messages %}\n  {%-  generation -%}\n  {{ m.content }}!\n  {%+ endgeneration  %}\n"
    "{% endfor %}",
    "neither": "{% for m in messages %}{{ m.content }}{{ '{% generation %}' }}{% raw %}{% generation %}{% endraw %}\n"
    '{# {% generation %} #}{% set x = "{% endgeneration %}" %}{% generation %}{{ x }}{% endgeneration %}{% endfor %}',
}


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_template_with_generation_has_a_form_that_plain_jinja_reads(theirs, name):
    template = chat(GENERATIONS[name])
    with pytest.raises(TemplateError, match="generation"):
        Plain(export_chat_template(template))
    plain = export_chat_template(template, plain=True)
    for row in (ONE, THREE):
        asked = messages_of(row, answered=False)
        options = {"chat_template": export_chat_template(template), "add_generation_prompt": True, "tokenize": False}
        assert Plain(plain).text(asked) == theirs.apply_chat_template(asked, **options) == _text(template, row)


def test_without_a_generation_the_plain_form_is_the_same():
    for style in (LLAMA2, PHI3):
        assert export_chat_template(chat(style), plain=True) == export_chat_template(chat(style))


def _text(template, row):
    return "".join(END_OF_TEXT if piece.end else piece.text for piece in template.render(row)[0])


def _in_parts(messages):
    """Each content as a list: the first message cut in two, the others whole."""
    for number, message in enumerate(messages):
        text = message["content"]
        texts = [text[:3], text[3:]] if number == 0 else [text]
        yield {**message, "content": [{"type": "text", "text": part} for part in texts]}


@pytest.mark.parametrize("name", [*EXPORTED, *STYLES])
def test_contents_given_as_parts_are_text_and_not_the_print_of_a_list(theirs, name):
    template = EXPORTED.get(name) or chat(STYLES[name])
    options = {"chat_template": export_chat_template(template), "add_generation_prompt": True, "tokenize": False}
    for row in (ONE, BOTH):
        if not template.missing_place(row):
            asked = messages_of(row, answered=False)
            text = theirs.apply_chat_template([*_in_parts(asked)], **options)
            assert text == theirs.apply_chat_template(asked, **options) == _text(template, row)


def test_an_input_may_be_parts_too_and_an_empty_content_is_no_text(theirs):
    source, template = export_chat_template(EXPORTED["chatml"]), EXPORTED["chatml"]
    message = {"role": "user", "content": "Name it.", "input": [{"type": "text", "text": "sky"}]}
    options = {"chat_template": source, "tokenize": False}
    assert theirs.apply_chat_template([message], **options) == template.prompt(Conversation("Name it.", "sky"))
    empty = {"role": "user", "content": None}
    assert theirs.apply_chat_template([empty], **options) == template.prompt(Conversation(""))


@pytest.mark.parametrize("name", ["chatml", "phi3"])
@pytest.mark.parametrize("part", [{"type": "image", "url": "x"}, {"type": "text", "text": 3}])
def test_parts_that_are_no_text_are_refused(theirs, name, part):
    template = EXPORTED["chatml"] if name == "chatml" else chat(PHI3)
    message = {"role": "user", "content": [{"type": "text", "text": "Look:"}, part]}
    with pytest.raises(Exception, match="reads text alone"):
        theirs.apply_chat_template([message], chat_template=export_chat_template(template))


def test_calls_of_tools_stay_beside_contents_in_parts(theirs):
    source, tokens = TOOL_STYLES["llama3"]
    template = chat(source, tokens)
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "Add."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "2"},
    ]
    options = {"chat_template": export_chat_template(template), "add_generation_prompt": True, "tokenize": False}
    parts = [{**messages[0], "content": [{"type": "text", "text": "Add."}]}, *messages[1:]]
    text = theirs.apply_chat_template(parts, **options)
    assert text == theirs.apply_chat_template(messages, **options)
    assert '{"name": "add", "parameters": {"a": 1}}' in text
