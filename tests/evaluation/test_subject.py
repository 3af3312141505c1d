"""Whether a prompt fits is what becomes of it: a row in its template is refused, a text loses its beginning."""

import pytest
import torch

from ift.data.reading.rows import Row
from ift.evaluation.responses import respond
from ift.evaluation.subject import Subject
from ift.model.config import GPTConfig
from ift.model.gpt import GPT
from ift.settings import GenerateSettings
from ift.text.templates import Segment, Template

CONTEXT = 40
GREEDY = GenerateSettings(max_new_tokens=12, temperature=0.0, top_k=None, top_p=None, batch_size=4)
TEMPLATE = Template("plain", (Segment("{instruction}\n"), Segment("{output}", True)))


@pytest.fixture(scope="module")
def subject(byte_tokenizer) -> Subject:
    torch.manual_seed(3)
    model = GPT(GPTConfig(257, CONTEXT, n_layer=1, n_head=2, n_embd=16))
    return Subject("tuned", model.eval(), byte_tokenizer, TEMPLATE)


@pytest.mark.parametrize(("characters", "fits"), [(CONTEXT - 2, True), (CONTEXT - 1, False)])
def test_a_row_fits_where_its_prompt_leaves_a_position(subject, characters, fits):
    """With the line break of the template: 39 and 40 tokens of 40."""
    row = Row("x" * characters, file="f", number=1)
    assert subject.fits(row, GREEDY) is fits
    [response] = respond(subject.model, [row], TEMPLATE, subject.tokenizer, GREEDY)
    assert (response["stop_reason"] == "context" and not response["response_tokens"]) is not fits


@pytest.mark.parametrize(("characters", "fits"), [(CONTEXT - 12, True), (CONTEXT - 11, False)])
def test_a_text_fits_where_it_leaves_all_new_tokens_a_position(subject, characters, fits):
    text = "".join(chr(97 + n % 26) for n in range(characters))
    assert subject.fits(text, GREEDY) is fits
    same = subject.complete([text], GREEDY) == subject.complete([text[-(CONTEXT - 12) :]], GREEDY)
    assert same  # cut where it does not fit, whole where it does


def test_a_row_is_completed_in_the_template_token_for_token(subject):
    """Its text alone would not be the same tokens: a template has special tokens, and pieces that are encoded apart."""
    row = Row("ab", file="f", number=1)
    assert subject.prompt_ids(row) == subject.tokenizer.encode("ab") + subject.tokenizer.encode("\n")
    [said] = subject.complete([row], GREEDY)
    [response] = respond(subject.model, [row], TEMPLATE, subject.tokenizer, GREEDY)
    assert said.strip() == response["response"]


def test_an_empty_stop_string_stops_nothing(subject):
    assert subject.complete(["ab"], GREEDY, stop=[""]) == subject.complete(["ab"], GREEDY)
