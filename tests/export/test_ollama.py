"""A Modelfile's TEMPLATE writes our prompt. Go's templates are read here by a small reading of their language."""

import re

import pytest

from ift.artifacts.model_folder import load_model_folder
from ift.export.export import export
from ift.export.ollama import go_template, modelfile, ollama_name, stops
from ift.export.source import RunModel, joint
from ift.text.chat_templates import ChatTemplate
from ift.text.conversations import Conversation
from ift.text.templates import Segment, Template
from ift.text.tokenizers import END_OF_TEXT
from tests.running import ROOT

PRESETS = sorted({path.stem for path in (ROOT / "conf" / "prompt").glob("*.yaml")} - {"chat", "none"})
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|:=|[^\s"]+')


def rendered(go, messages):
    """What Go's text/template prints: actions whose white space is trimmed, if, range, variables, strings, eq, and."""
    texts = re.split(r"\s*\{\{- (.*?) -\}\}\s*", go)
    assert not any(texts[::2]), "text between the actions"
    actions = [TOKEN.findall(action) for action in texts[1::2]]
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    variables, printed = {"$.System": system}, []

    def value(word, dot):
        if word.startswith('"'):
            return re.sub(r"\\(x22|U[0-9a-f]{8}|.)", unescaped, word[1:-1])
        if word.startswith(".") and word != ".Messages":
            return dot[word[1:].lower()]
        return {".Messages": messages, "true": True, "false": False}.get(word, variables.get(word))

    def run(at, dot, shown):
        """Until the end or else of this block: where that is."""
        while at < len(actions):
            first, *rest = actions[at]
            if first in ("end", "else"):
                return at
            if first == "range":
                for item in value(rest[0], dot):
                    run(at + 1, item, shown)
                at = run(at + 1, None, False)
                assert actions[at] == ["end"]
            elif first == "if":
                at = branch(at, rest, dot, shown)
            elif rest[:1] in ([":="], ["="]):
                assert rest[0] == ":=" or first in variables
                if shown:
                    variables[first] = value(rest[1], dot)
            elif shown:
                assert not rest, actions[at]
                printed.append(value(first, dot))
            at += 1
        return at

    def branch(at, condition, dot, shown):
        done = False
        while True:
            holds = shown and not done and (not condition or truth(condition, dot))
            at = run(at + 1, dot, holds)
            done = done or holds
            if actions[at] == ["end"]:
                return at
            condition = actions[at][2:] if actions[at][1:2] == ["if"] else []

    def truth(words, dot):
        return value(words[1], dot) == value(words[2], dot) if words[0] == "eq" else bool(value(words[0], dot))

    run(0, None, True)
    return "".join(printed)


def unescaped(match):
    code = match[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else {"n": "\n", "t": "\t", "r": "\r"}.get(code, code)


def messages_of(row):
    messages = [{"role": "system", "content": row.system}] if row.system else []
    for asked, answer in row.history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": row.instruction}]


def text_of(template, row):
    return "".join(END_OF_TEXT if piece.end else piece.text for piece in template.render(row)[0])


def test_a_model_of_plain_text_has_no_template_for_turns(run_of):
    run = run_of(prompt="none")
    export(run, "gguf")
    file = (run.path / "export" / "gguf-fp32" / "Modelfile").read_text()
    assert "# no TEMPLATE: the model was trained on plain text (use /api/generate, raw)\n" in file
    assert "\nTEMPLATE" not in file


@pytest.mark.parametrize("prompt", PRESETS)
def test_every_preset_s_template_writes_our_prompt(run_of, prompt):
    run = run_of(prompt=prompt)
    export(run, "gguf")
    file = (run.path / "export" / "gguf-fp32" / "Modelfile").read_text()
    go = re.search(r'^TEMPLATE """(.*)"""$', file, flags=re.MULTILINE)[1]
    template = load_model_folder(run.model)[2]
    for row in (
        Conversation("Name its color."),
        Conversation('A "quote" \\ {{ .System }}\n', system="You are brief."),
        Conversation("And now?", history=(("Hello!", "Hi."), ("Sky?", "Blue."))),
        Conversation("And now?", system="Be brief.", history=(("Hello!", "Hi."),)),
    ):
        if not template.missing_place(row):
            assert rendered(go, messages_of(row)) == text_of(template, row)
    if template.missing_place(Conversation("a", system="b")):
        assert "# SYSTEM has no effect" in file


def test_awkward_texts_stay_text(run_of):
    template = Template(
        "awkward",
        (
            Segment('"""{{ .Prompt }} \\n \\x22 \t\r\x00 é 日 😀 """\n', when="always"),
            Segment('[{system}]"', when="system"),
            Segment(" again ", when="later"),
            Segment("{instruction}->"),
            Segment("{output}<|im_end|>\n", supervised=True),
        ),
    )
    go = go_template(template)
    assert '"""' not in go
    for row in (
        Conversation("x"),
        Conversation("x", system="s", history=(("a", "b"), ("c", "d"))),
    ):
        assert rendered(go, messages_of(row)) == text_of(template, row)
    assert stops(RunModel.open(run_of(prompt=template))) == ["<|im_end|>", END_OF_TEXT]


def test_a_jinja_chat_template_becomes_go_s(run_of):
    source = "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    source += "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    template = ChatTemplate("llama", source=source, special=(("eos_token", "</s>"),))
    row = Conversation("And now?", history=(("Hello!", "Hi."), ("Sky?", "Blue.")))
    text = "[INST] Hello! [/INST] Hi.<|endoftext|>[INST] Sky? [/INST] Blue.<|endoftext|>[INST] And now? [/INST]"
    assert rendered(go_template(template), messages_of(row)) == text == text_of(template, row)


def test_a_template_that_counts_its_turns_is_left_out_and_said_so(run_of):
    source = "{% for m in messages %}{{ loop.index0 if m['role'] == 'user' else '' }}{{ m['content'] }}\n{% endfor %}"
    template = ChatTemplate("counting", source=source, special=())
    assert go_template(template) is None
    text = modelfile(RunModel.open(run_of(prompt=template)), "model.gguf")
    assert 'TEMPLATE "' not in text
    assert "# no TEMPLATE" in text


def test_a_modelfile_is_what_ollama_reads(run_of):
    text = modelfile(RunModel.open(run_of("My Run (2)\u202e", prompt="chatml")), "model-fp32.gguf")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert [line.split(" ", 2)[:2] for line in lines[2:]] == [["PARAMETER", key] for key in (
        "stop", "stop", "num_ctx", "temperature", "repeat_penalty",
    )]  # fmt: skip
    assert lines[0] == "FROM ./model-fp32.gguf"
    assert lines[1].startswith('TEMPLATE """{{- ')
    assert lines[2:4] == ['PARAMETER stop "<|im_end|>"', 'PARAMETER stop "<|endoftext|>"']
    assert lines[4] == "PARAMETER num_ctx 64"
    assert "ollama create my-run-2 -f Modelfile" in text
    assert "\u202e" not in text


def test_names_are_those_ollama_takes():
    assert [ollama_name(name) for name in ("run", "10-15-00", "Ä ö", "a..b")] == ["run", "10-15-00", "model", "a-b"]


# -- what a Modelfile claims -------------------------------------------------------------------------------------------


def parameters(file, name):
    """What Ollama reads of a Modelfile's PARAMETER lines: quoted by one or three quotes, with no escapes at all."""
    found = re.findall(rf'^PARAMETER {name} ("""(?:.|\n)*?"""|"[^"]*")$', file, flags=re.MULTILINE)
    return [value[3:-3] if value.startswith('"""') else value[1:-1] for value in found]


@pytest.mark.parametrize(
    "counts", [{"input": 7, "system": 3, "history": 2}, {"input": 0, "system": 0, "history": 0}, None]
)
def test_a_modelfile_claims_only_what_the_rows_had(run_of, counts):
    source = RunModel.open(run_of(prompt="alpaca", rows_with=counts))
    file = modelfile(source, "model.gguf")
    go = re.search(r'^TEMPLATE """(.*)"""$', file, flags=re.MULTILINE)[1]
    told = rendered(go, messages_of(Conversation("Sky?", system="Be brief.")))
    if counts is None:
        assert "# SYSTEM as the rows of the training had it: how many had one was not recorded." in file
        assert told == source.template.prompt(Conversation("Sky?", system="Be brief."))
    elif counts["system"]:
        assert "# SYSTEM as you like: 3 rows of the training had one." in file
        assert told == source.template.prompt(Conversation("Sky?", system="Be brief."))
    else:
        assert "# SYSTEM has no effect: no row of the training had a system message." in file
        assert told == source.template.prompt(Conversation("Sky?"))
    has_input = '# An input follows its instruction in the same message, after "\\n\\n### Input:\\n"\n'
    assert (has_input in file) is (counts is None or counts["input"] > 0)
    assert ("# No row of the training had an input" in file) is (counts is not None and not counts["input"])
    assert ("# No row of the training had more than one turn" in file) is (counts is not None and not counts["history"])


def test_an_input_that_changes_the_preamble_is_said_to_have_no_place(run_of):
    file = modelfile(RunModel.open(run_of(prompt="alpaca_stanford")), "model.gguf")
    assert "# An input cannot be asked about here: the prompt template writes rows with one in another way." in file


@pytest.mark.parametrize("prompt", PRESETS)
def test_an_instruction_joined_with_its_input_is_the_row_s_own_prompt(run_of, prompt):
    template = RunModel.open(run_of(prompt=prompt)).template
    row = Conversation("Translate.", "Hello\n", system="")
    between = joint(template)
    assert (between is None) == (prompt == "alpaca_stanford")
    if between is not None:
        assert template.prompt(Conversation(f"Translate.{between}Hello\n")) == template.prompt(row)


def test_what_ends_the_model_s_answers_stops_them_here_too(run_of, small_tokenizer):
    template = Template("t", (Segment("{instruction}\n"), Segment('{output} an "\\n" ends\nhere', supervised=True)))
    token = small_tokenizer.encode("the")[0]
    source = RunModel.open(run_of(prompt=template, stops=[token]))
    assert source.stops == {token}
    file = modelfile(source, "model.gguf")
    assert parameters(file, "stop") == ['an "\\n" ends\nhere', END_OF_TEXT, small_tokenizer.decode([token])]


@pytest.mark.parametrize("closing", ['"""\nFROM /etc/passwd', 'x"', "\x1b[31m", "a\rFROM b", "\u202eFROM"])
def test_a_stop_that_could_end_its_line_is_left_out(run_of, closing):
    template = Template("t", (Segment("{instruction}\n"), Segment("{output}" + closing, supervised=True)))
    file = modelfile(RunModel.open(run_of(prompt=template)), "model.gguf")
    assert parameters(file, "stop") == [END_OF_TEXT]
    assert "# no PARAMETER can hold a stop: " in file
    assert [line for line in re.split(r"[\r\n]", file) if line.startswith("FROM")] == ["FROM ./model.gguf"]


def test_the_spelling_of_an_end_of_text_cannot_end_a_text_of_the_template():
    source = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    template = ChatTemplate("t", source=source, special=(("eos_token", "</s>"),))
    end = '"}}{{ .System }}"""'
    go = go_template(template, end=end)
    assert '"""' not in go
    row = Conversation("And now?", history=(("Hello!", "Hi."),))
    assert rendered(go, messages_of(row)) == f"Hello!{end}Hi.{end}And now?{end}"
