"""prompt=auto and prompt=chat: which template a model is trained with, and what is said of it."""

import json

import pytest

from ift.artifacts.model_template import decided, open_template
from ift.errors import ConfigError
from ift.text.chat_templates import ChatTemplate, template_from
from ift.text.conversations import Conversation
from tests.text.chats import CHATML, THINKS

HASHES = {"alpaca": "a86a3e57b808959a", "phi3": "c2139d9ecac8a69d"}  # as earlier releases stored them
INSTRUCT = {"eos_token": "<|im_end|>", "chat_template": CHATML}


@pytest.fixture
def folder(tmp_path):
    """folder(config): a model's folder with this tokenizer_config.json."""

    def folder(config):
        path = tmp_path / "Small-Instruct"
        path.mkdir()
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        return path

    return folder


@pytest.mark.parametrize(
    "config", [INSTRUCT, {**INSTRUCT, "chat_template": [{"name": "default", "template": CHATML}]}], ids=["one", "named"]
)
@pytest.mark.parametrize("words", [[], ["prompt=chat"], ["prompt=auto", "prompt.turns=last"]])
def test_an_instruct_model_is_trained_with_its_own_template(config, words, folder, settings_of):
    path = folder(config)
    settings = settings_of("model=pretrained", f"model.pretrained={path}", "data=demo", *words)
    prompt, why = decided(settings.prompt, settings.model)
    assert why == "prompt    the model's own chat template (Small-Instruct)"
    assert (prompt.name, prompt.chat_template, prompt.segments) == ("Small-Instruct", str(path), [])
    template = open_template(prompt, settings.model)
    assert isinstance(template, ChatTemplate)
    assert (template.source, template.turns) == (CHATML, prompt.turns)
    assert open_template(settings.prompt, settings.model) == template
    assert decided(prompt, settings.model) == (prompt, "")  # what was decided stays


def test_of_a_template_that_changes_earlier_answers_the_last_ones_are_learnt(folder, settings_of):
    path = folder({"eos_token": "<|im_end|>", "chat_template": THINKS})
    settings = settings_of("model=pretrained", f"model.pretrained={path}")
    prompt, why = decided(settings.prompt, settings.model)
    assert why == (
        "prompt    the model's own chat template (Small-Instruct); it writes an earlier answer in another way once a "
        "turn follows: the last one of each row is learnt"
    )
    assert prompt.turns == "last"
    asked, why = decided(settings.prompt, settings.model, turns_asked=True)
    assert (asked.turns, why) == ("all", "prompt    the model's own chat template (Small-Instruct)")


def test_a_file_of_its_own_goes_before_the_configuration(folder, settings_of):
    path = folder(INSTRUCT)
    (path / "chat_template.jinja").write_text(CHATML.replace("im_start", "begin"))
    settings = settings_of("model=pretrained", f"model.pretrained={path}")
    assert open_template(settings.prompt, settings.model).prompt(Conversation("Hi")).startswith("<|begin|>user\nHi")


@pytest.mark.parametrize("config", [{}, {"chat_template": [{"name": "tool_use", "template": CHATML}]}])
def test_a_base_model_is_trained_with_alpaca(config, folder, settings_of):
    settings = settings_of("model=pretrained", f"model.pretrained={folder(config)}", "data=alpaca")
    prompt, why = decided(settings.prompt, settings.model)
    assert why == "prompt    alpaca: Small-Instruct has no chat template of its own"
    assert prompt == settings_of("prompt=alpaca").prompt
    settings = settings_of("model=pretrained", f"model.pretrained={settings.model.pretrained}", "prompt=chat")
    with pytest.raises(
        ConfigError, match=r"^prompt=chat: .*Small-Instruct has no chat template \(prompt\.chat_template="
    ):
        decided(settings.prompt, settings.model)


@pytest.mark.parametrize("model", [[], ["model=gpt2-small"], ["model=pretrained", "model.pretrained=gpt2"]])
@pytest.mark.parametrize(("data", "name"), [("demo", "phi3"), ("alpaca", "alpaca")])
def test_gpt2_and_what_begins_from_scratch_have_what_they_had_without_a_word(model, data, name, settings_of):
    settings = settings_of(*model, f"data={data}")
    prompt, why = decided(settings.prompt, settings.model)
    assert (prompt, why) == (settings_of(f"data={data}", f"prompt={name}").prompt, "")
    assert template_from(prompt).hash == HASHES[name]


def test_prompt_chat_from_scratch_is_an_error(settings_of):
    settings = settings_of("prompt=chat")
    with pytest.raises(ConfigError, match=r"^prompt=chat: a model from scratch has no chat template"):
        decided(settings.prompt, settings.model)


def test_another_prompt_for_an_instruct_model_says_what_is_given_up(folder, settings_of):
    path = folder(INSTRUCT)
    settings = settings_of("model=pretrained", f"model.pretrained={path}", "prompt=alpaca")
    prompt, why = decided(settings.prompt, settings.model)
    assert prompt is settings.prompt
    assert why == (
        "prompt    alpaca, not the chat template that Small-Instruct was tuned with: its turns, their ends and what it "
        "learnt of them are given up (leave out prompt= to take its own)"
    )
    other = settings_of("model=pretrained", f"model.pretrained={path}", f"prompt.chat_template={path}")
    assert decided(other.prompt, other.model) == (other.prompt, "")  # a chat template that was chosen
