"""Responses keep their rows, and are what the model continues its prompt with."""

from dataclasses import replace

import pytest
import torch

from ift.data.reading.rows import Row
from ift.evaluation.answers import COLUMNS
from ift.evaluation.responses import Answerer, respond, show_summary
from ift.evaluation.scoring import scores_of_run
from ift.generation.engine import generate
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.run import RunFolder, write_json, write_jsonl
from ift.settings import GenerateSettings
from ift.text.encoding import encode_prompt
from ift.text.templates import Segment, Template

TEMPLATE = Template("plain", (Segment("{instruction}\n"), Segment("{input}", when="input"), Segment("{output}", True)))
SETTINGS = GenerateSettings(max_new_tokens=5, temperature=0.0, top_k=None, top_p=None, batch_size=3)
CONTEXT, END = 24, 256


@pytest.fixture(scope="module")
def model() -> GPT:
    """Large random weights over bytes: a different answer to each prompt, of printable characters only."""
    torch.manual_seed(2)
    model = GPT(GPTConfig(257, CONTEXT, n_layer=1, n_head=2, n_embd=16, tie_weights=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
        model.ln_f.bias[0] = 50.0
        printable = [*range(97, 123), END]
        model.lm_head.weight[:, 0] = -1.0
        model.lm_head.weight[printable, 0] = 1.0
    return model.eval()


def rows(*instructions: str) -> list[Row]:
    return [Row(text, "", f"answer {i}", number=i + 1, file="f.json") for i, text in enumerate(instructions)]


# -- responding -----------------------------------------------------------------------------------------------------


def test_a_model_of_plain_text_is_asked_with_an_end_of_text_alone(model, byte_tokenizer):
    plain = Template("none", (Segment("{output}", True),))
    [response] = respond(model, rows(""), plain, byte_tokenizer, SETTINGS)
    assert (response["prompt_tokens"], response["reference"]) == (1, "answer 0")
    [written] = generate(model, [[END]], end_of_text=END, max_new_tokens=5)
    assert response["response"] == byte_tokenizer.decode(written.ids)


def test_an_answer_ends_before_a_stop_string(model, byte_tokenizer):
    [whole] = respond(model, rows("tell me"), TEMPLATE, byte_tokenizer, SETTINGS)
    text = whole["response"]
    assert len(text) == 5
    [cut] = respond(model, rows("tell me"), TEMPLATE, byte_tokenizer, replace(SETTINGS, stop=[text[2:4]]))
    assert (cut["response"], cut["stop_reason"]) == (text[: text.index(text[2:4])], "stop")


def test_a_repetition_penalty_that_is_not_set_names_no_answers_anew():
    unset = {"max_new_tokens": 5, "temperature": 0.0, "top_k": None, "top_p": None, "batch_size": 3}
    assert SETTINGS.identity() == unset
    assert replace(SETTINGS, repetition_penalty=1.2).identity() == unset | {"repetition_penalty": 1.2}


def test_there_is_one_response_for_each_row_in_their_order(model, byte_tokenizer):
    many = rows("say a long one", "b", "what is this", "b c", "tell me", "go", "again")  # of all lengths, batches of 3
    together = respond(model, many, TEMPLATE, byte_tokenizer, SETTINGS)
    assert [tuple(response) for response in together] == [COLUMNS] * 7
    assert [(r["instruction"], r["reference"], r["row"]) for r in together] == [
        (row.instruction, row.output, row.number) for row in many
    ]
    for row, response in zip(many, together, strict=True):
        assert [response] == respond(model, [row], TEMPLATE, byte_tokenizer, SETTINGS)
    assert len({response["response"] for response in together}) > 4


def test_the_prompt_and_the_response_are_counted_in_tokens(model, byte_tokenizer):
    (response,) = respond(model, rows("abc"), TEMPLATE, byte_tokenizer, SETTINGS)
    assert response["prompt_tokens"] == 4  # a b c and the line break
    assert response["response_tokens"] == len(response["response"]) == 5
    assert response["stop_reason"] == "length"
    assert response["file"] == "f.json"


def test_a_prompt_that_fills_the_context_gets_an_empty_response(model, byte_tokenizer):
    full, fits = "x" * (CONTEXT - 1), "x" * (CONTEXT - 3)  # with the line break: 24 and 22 tokens of 24
    first, second, third = respond(model, rows(full, fits, full + "x"), TEMPLATE, byte_tokenizer, SETTINGS)
    assert (first["response"], first["stop_reason"], first["prompt_tokens"]) == ("", "context", 24)
    assert (third["response"], third["stop_reason"], third["prompt_tokens"]) == ("", "context", 25)
    assert (len(second["response"]), second["stop_reason"]) == (2, "context")


def test_rows_that_do_not_fit_change_nothing_for_the_others(model, byte_tokenizer):
    full = "x" * CONTEXT
    alone = respond(model, rows("go", "again"), TEMPLATE, byte_tokenizer, SETTINGS)
    _, second, third = respond(model, rows(full, "go", "again"), TEMPLATE, byte_tokenizer, SETTINGS)
    assert [r["response"] for r in alone] == [second["response"], third["response"]]


def test_the_closing_text_of_the_template_is_no_part_of_the_response(model, byte_tokenizer):
    (plain,) = respond(model, rows("abc"), TEMPLATE, byte_tokenizer, SETTINGS)
    closing = plain["response"][-2:]
    marked = Template("marked", (Segment("{instruction}\n"), Segment("{output}" + closing, True)))
    (cleaned,) = respond(model, rows("abc"), marked, byte_tokenizer, SETTINGS)
    assert cleaned["response"] == plain["response"][:-2]
    assert cleaned["response_tokens"] == 5  # what the model said, the closing text too


def test_the_model_is_asked_what_it_was_trained_to_continue(model, byte_tokenizer, monkeypatch):
    seen, hidden = [], GPT.hidden
    monkeypatch.setattr(GPT, "hidden", lambda self, ids, *more: seen.append(ids) or hidden(self, ids, *more))
    row = Row("ab", "cd", "ef", number=1, file="f.json")
    respond(model, [row], TEMPLATE, byte_tokenizer, SETTINGS)
    assert seen[0].tolist() == encode_prompt(row, TEMPLATE, byte_tokenizer) == list(b"ab\ncd")


def test_an_answerer_may_be_given_a_shorter_limit(model, byte_tokenizer):
    answer = Answerer(TEMPLATE, byte_tokenizer, SETTINGS, seed=0)
    assert [r["response_tokens"] for r in answer(model, rows("abc"))] == [5]
    assert [r["response_tokens"] for r in answer(model, rows("abc"), 2)] == [2]
    assert answer(model, []) == []


def test_the_closing_lines_have_every_score_with_its_interval_and_what_it_does_not_say(tmp_path, capsys):
    run = RunFolder(tmp_path)
    texts = [("four", "four" if i < 3 else "five") for i in range(12)]
    about = {"instruction": "2 + 2?", "input": "", "stop_reason": "end", "response_tokens": 1, "file": "f", "row": 1}
    responses = [about | {"response": response, "reference": reference} for response, reference in texts]
    write_jsonl(run.responses, responses)
    write_json(run.summary, scores_of_run(run, responses))
    show_summary(run)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("test      12 answers: exact match 25.0% (8.9% to 53.2%), ROUGE-L 0.250 (")
    assert lines[0].endswith(", BLEU 0.250, ended by itself 100.0% (75.8% to 100.0%)")
    assert lines[1] == (
        "note      ROUGE-L says little here: 12 of 12 references are one word, which is right or wrong. "
        "BLEU says little here: it counts runs of up to 4 words, and 12 of 12 references have fewer."
    )
