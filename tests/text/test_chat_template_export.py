from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ift.text.chat_template_export import export_chat_template
from ift.text.chat_templates import ChatTemplate
from ift.text.conversations import Conversation
from ift.text.encoding import encode_piece, encode_prompt
from ift.text.templates import Segment, Template
from tests.text.chats import BOTH, ONE, PHI3, SYSTEM, THREE, chat, messages_of, spelled


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
    whole = [token for piece in template.pieces(row) for token in encode_piece(piece, trained)]
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
        r"""  {{- "Q: " ~ user["content"] ~ "\n" -}}""",
        """  {{- "A: " -}}""",
        """  {%- if answer -%}{{- answer["content"] ~ "." -}}{%- endif -%}""",
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
    assert export_chat_template(chat(PHI3)) == PHI3


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
