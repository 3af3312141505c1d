"""transformers and llama.cpp answer from an export as the run does; and where one does not, it is said where."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from ift.artifacts.model_folder import load_model_folder
from ift.cli import main
from ift.data.reading.rows import Row
from ift.errors import DataError
from ift.export import llama_cpp
from ift.export.export import export
from ift.export.same_answers import OwnAnswers, Transformers, messages_of
from ift.export.source import RunModel
from ift.text.chat_templates import ChatTemplate
from ift.text.encoding import encode_prompt
from ift.text.templates import Segment, Template

GENERATION = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}{{ ' ' + m['content'] + eos_token }}"
    "{% endgeneration %}{% else %}[{{ m['role'] }}] {{ m['content'] }}{% endif %}{% endfor %}"
)
TURNS = (("Hello!", "Hi."), ("Sky?", "Blue."))
ROWS = [
    Row("Name its color.", "the sky\n", "Blue.", file="rows.json", number=1),
    Row('A "quote" {{ x }} é 日 😀 %}', "", "Yes.", file="rows.json", number=2),
    Row("And now?", "", "Green.", history=TURNS, file="rows.json", number=3),
]
SYSTEM = Row("And now?", "", "Green.", system="You are brief.", file="rows.json", number=4)
CASES = {
    "phi3": ("phi3", [*ROWS, SYSTEM]),
    "alpaca_stanford": ("alpaca_stanford", [*ROWS, SYSTEM]),
    "chat": (ChatTemplate("chat", source=GENERATION, special=(("eos_token", "</s>"),)), [*ROWS, SYSTEM]),
    "plain": ("none", [Row("", "", "Some text.", file="rows.json", number=1)] * 3),
}


@pytest.fixture
def run_with(run_of):
    def run_with(case, **options):
        prompt, rows = CASES[case]
        return run_of(prompt=prompt, rows=rows, context_length=256, **options)

    return run_with


@pytest.fixture
def no_llama_cpp(monkeypatch):
    monkeypatch.setattr(llama_cpp, "program", lambda name: None)


@pytest.mark.parametrize("case", CASES)
def test_transformers_answers_from_an_export_as_training_did(run_with, case, no_llama_cpp):
    run = run_with(case)
    done = export(run, "hf", prove=10)
    asked = 1 if case == "plain" else 4
    [line] = [line for line in done.lines if line.startswith("proof")]
    assert f": {asked} of {asked} answers the same, token for token (" in line
    assert done.same
    assert "          llama.cpp was not asked: llama-server is not installed" in done.lines
    card = (run.path / "export" / "hf-fp32" / "README.md").read_text()
    assert f"* {line.removeprefix('proof').strip()}" in card.partition("## Checked")[2]


class Altered:
    """Our own answers, one of them and one prompt changed."""

    def __init__(self, own, template, tokenizer):
        self.own, self.template, self.tokenizer = own, template, tokenizer

    def prompt(self, messages, tools=()):
        question = next(
            q for q in self.own.questions if messages_of(q.row, self.own.source, beside=True)[0] == messages
        )
        return question.prompt if question.row.number != 3 else [*question.prompt[:2], 7, *question.prompt[3:]]

    def answer(self, prompt, limit):
        question = next(q for q in self.own.questions if q.prompt == list(prompt))
        assert limit == 16
        if question.row.number == 1:
            return [*question.answer[:5], (question.answer[5] + 1) % 300, *question.answer[6:]]
        return question.answer[:-1] if question.row.number == 2 else question.answer


def test_a_prompt_and_an_answer_that_part_are_named_with_their_place(run_with, small_tokenizer):
    run = run_with("phi3")
    source = RunModel.open(run)
    own = OwnAnswers(source, 10)
    compared = own.compare(Altered(own, source.template, small_tokenizer), "another program", beside=True)
    assert compared.summary.startswith("another program: 1 of 4 answers the same, token for token (")
    first, second, third = compared.partings
    question = own.questions[0]
    ours, theirs = question.answer[5], (question.answer[5] + 1) % 300
    spelled = [json.dumps(small_tokenizer.decode([token]), ensure_ascii=False) for token in (theirs, ours)]
    assert first.startswith(
        f"rows.json:1: its answer, from token 6 on: {spelled[0]}, in training {spelled[1]} (our log"
    )
    with torch.no_grad():
        logits = load_model_folder(run.model)[0].eval()(torch.tensor([[*question.prompt, *question.answer[:5]]]))[0, -1]
    assert (
        f"are {float(logits[ours] - logits[theirs]):.2g} apart)" in first
    )  # far more than rounding: not said to be it
    assert second.startswith(
        f"rows.json:2: its answer, from token {len(own.questions[1].answer)} on: nothing, in train"
    )
    assert third.startswith("rows.json:3: its prompt, from token 3 on: ")


def test_rows_are_taken_evenly_from_the_test_split_and_long_prompts_are_counted(run_of, no_llama_cpp):
    rows = [Row(f"Count {number}.", "", "x", file="rows.json", number=number) for number in range(40)]
    rows[30] = Row("long " * 200, "", "x", file="rows.json", number=30)
    run = run_of(rows=rows)
    own = OwnAnswers(RunModel.open(run), 4)
    assert [question.row.number for question in own.questions] == [0, 10, 20]
    assert own.too_long == 1
    assert "          1 test rows fill the context and were not asked" in export(run, "hf", prove=4).lines
    with pytest.raises(DataError, match="no test rows"):
        export(run_of("none", rows=[]), "hf", prove=4)


def test_an_input_that_a_program_cannot_be_told_is_asked_as_tokens(run_with):
    source = RunModel.open(run_with("alpaca_stanford"))
    assert messages_of(ROWS[0], source, beside=False) is None
    template = Template("t", (Segment("{instruction}|{input}|"), Segment("{output}", supervised=True)))
    source = RunModel(source.run, source.folder, source.tokenizer, template)
    assert messages_of(ROWS[0], source, beside=False) is None  # without an input a bar is gone too
    assert messages_of(ROWS[1], source, beside=False) == ([{"role": "user", "content": ROWS[1].instruction}], ())


def test_typed_a_parting_is_an_exit_code_and_the_folder_is_there(run_with, monkeypatch, capsys, no_llama_cpp):
    run = run_with("phi3")
    monkeypatch.setattr(Transformers, "answer", lambda self, prompt, limit: [1, 2, 3])
    monkeypatch.setattr(sys, "argv", ["ift", "export", str(run.path), "--to", "hf", "--prove"])
    assert main() == 1
    out = capsys.readouterr().out
    assert ": 0 of 4 answers the same, token for token" in out
    assert out.count("parts     rows.json:") == 4
    assert (run.path / "export" / "hf-fp32" / "model.safetensors").exists()
    monkeypatch.setattr(sys, "argv", ["ift", "export", str(run.path), "--to", "hf", "--prove", "-1"])
    assert main() == 2


def test_a_missing_transformers_is_one_line(run_with, monkeypatch, capsys, no_llama_cpp):
    run = run_with("phi3")
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(sys, "argv", ["ift", "export", str(run.path), "--to", "hf", "--prove"])
    assert main() == 5
    assert 'needs the package transformers (pip install "ift[export]")' in capsys.readouterr().err
    assert not any((run.path / "export").iterdir())


# -- llama.cpp ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["phi3", "chat"])
def test_llama_server_answers_from_an_export_as_training_did(run_with, case):
    if llama_cpp.program("llama-server") is None:
        pytest.skip("needs llama-server: install llama.cpp, or LLAMA_CPP=FOLDER of its programs")
    run = run_with(case)
    done = export(run, "gguf", prove=10)
    assert done.same, done.lines
    assert any("llama.cpp (fp32): 4 of 4 answers the same" in line for line in done.lines)
    source = RunModel.open(run)
    server = llama_cpp.program("llama-server")
    file = run.path / "export" / "gguf-fp32" / "model-fp32.gguf"
    with llama_cpp.Server(server, file, context_length=256) as running:
        parts = [{"role": "user", "content": [{"type": "text", "text": "Name it."}]}]  # it joins several with line ends
        row = Row("Name it.", "", "", file="", number=0)
        assert running.prompt(parts) == encode_prompt(row, source.template, source.tokenizer)


def test_an_id_that_is_no_token_is_named_by_its_number(small_tokenizer):
    """A published vocabulary has room for more than there are tokens, and other programs may choose what is none."""
    own = SimpleNamespace(source=SimpleNamespace(tokenizer=small_tokenizer))
    assert OwnAnswers._spelled(own, small_tokenizer.vocab_size) == f"{small_tokenizer.vocab_size}, which is no token"
