"""A model that answers word by word."""

from dataclasses import replace

import pytest

from ift.apps.speaker import ModelPlace
from ift.data.reading.rows import Row
from ift.errors import ConfigError
from ift.evaluation.responses import respond
from ift.settings import GenerateSettings
from ift.text.conversations import Conversation


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_an_answer_is_the_one_that_responses_has(speaker, say, temperature):
    settings = GenerateSettings(20, temperature, None, None, None)
    row = Row("Name a colour.", "", "", file="", number=1)
    (expected,) = respond(speaker.model, [row], speaker.template, speaker.tokenizer, settings)
    reply, pieces = say(Conversation("Name a colour."), max_new_tokens=20, temperature=temperature)
    assert (reply.text, reply.stop_reason) == (expected["response"], expected["stop_reason"])
    assert (reply.tokens, reply.prompt_tokens) == (expected["response_tokens"], expected["prompt_tokens"])
    assert "".join(pieces) == reply.text


def test_an_answer_ends_where_it_is_told_to(say):
    asked = [False, False, True]
    reply, _ = say(Conversation("a"), max_new_tokens=60, cancelled=lambda: asked.pop(0) if asked else True)
    assert (reply.stop_reason, reply.tokens) == ("cancelled", 3)


def test_the_oldest_turns_make_room(speaker):
    """96 positions; a turn of 20 characters is 20 + len("U: \\nA: \\n") + an end = 30 tokens, a question 20 + 7."""
    turn = ("q" * 10, "a" * 10)
    whole = Conversation("q" * 20, history=(turn, turn, turn))
    fitted, left_out = speaker.fitted(whole)
    assert (left_out, fitted.history) == (1, (turn, turn))
    assert len(speaker.prompt(fitted)) == 27 + 2 * 29
    assert speaker.fitted(replace(whole, history=())) == (replace(whole, history=()), 0)


def test_a_question_that_fills_the_context_is_refused(speaker):
    with pytest.raises(ConfigError, match="the question alone fills the context of 96 tokens"):
        speaker.fitted(Conversation("q" * 200))


def test_a_model_is_found_in_a_run_in_its_folder_or_by_its_name(talking, tmp_path):
    def find(where) -> ModelPlace:
        return ModelPlace.find(str(where), published=lambda name: f"settings of {name}")

    assert find(talking) == ModelPlace("run", talking / "model", single_turns=True)
    assert find(talking / "model") == ModelPlace("model", talking / "model", single_turns=False)
    (tmp_path / "config.json").touch()
    assert find(tmp_path).model == f"settings of {tmp_path}"
    assert find("who/model") == ModelPlace("model", "settings of who/model")
    for nothing in (talking.parent, talking.parent / "nowhere", "nowhere"):
        with pytest.raises(ConfigError, match="neither a run with a model nor a model folder"):
            find(nothing)
