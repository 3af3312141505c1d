"""Which tokenizer a model is given: its folder's own, from the Hub too, and a foreign one only by name."""

from dataclasses import replace

import pytest

from ift.artifacts.model_tokenizer import foreign, model_context, model_tokenizer
from ift.errors import WeightsError
from ift.run import write_json
from ift.settings import ModelSettings
from ift.text.templates import Segment, Template
from ift.text.tokenizer_files import FILES

TEMPLATE = Template("small", (Segment("Q: {instruction}\nA: "), Segment("{output}", supervised=True)))


def settings(pretrained, tokenizer=None) -> ModelSettings:
    sizes = {"n_layer": None, "n_head": None, "n_embd": None, "context_length": None}
    way = {"freeze": [], "activation_checkpointing": False, "compile": False}
    return ModelSettings("x", **sizes, **way, dropout=0.0, tie_weights=None, pretrained=pretrained, tokenizer=tokenizer)


@pytest.fixture
def folder(tmp_path, byte_tokenizer):
    """A model with a token for every byte, and its tokenizer."""
    byte_tokenizer.save(tmp_path, context_length=64)
    write_json(tmp_path / "config.json", {"vocab_size": 257, "eos_token_id": 256})
    return tmp_path


def test_a_row_may_have_the_positions_of_its_models_folder(folder):
    """A check of rows without torch drops what training would: not what is longer than GPT-2's 1,024."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    write_json(
        folder / "config.json", {"model_type": "llama", "vocab_size": 257, "max_position_embeddings": 64, **sizes}
    )
    asked = settings(str(folder))
    assert [model_context(replace(asked, context_length=n)) for n in (None, 32)] == [64, 32]
    with pytest.raises(WeightsError, match=r"64 positions, not 65 \(model.context_length=64 or less\)"):
        model_context(replace(asked, context_length=65))
    assert model_context(settings(None)) == 1024


@pytest.mark.parametrize("auto", [None, "auto"])
def test_a_folders_own_tokenizer_is_taken(folder, byte_tokenizer, auto):
    asked = settings(str(folder), auto)
    assert model_tokenizer(asked, TEMPLATE).hash == byte_tokenizer.hash
    assert foreign(asked, byte_tokenizer) is None


def test_that_of_a_model_on_the_hub_is_fetched_with_its_configuration_alone(folder, byte_tokenizer, monkeypatch):
    fetched = []

    def snapshot_download(name, *, allow_patterns):
        fetched.append((name, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert model_tokenizer(settings("somebody/german-gpt2"), TEMPLATE).hash == byte_tokenizer.hash
    assert fetched == [("somebody/german-gpt2", ["config.json", *FILES, "chat_template.jinja"])]


@pytest.mark.parametrize("name", ["openai-community/gpt2-medium", "gpt2", "distilgpt2", None])
def test_the_published_models_have_gpt2s_tokens_and_nothing_is_fetched(name, gpt2_tokenizer, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)
    assert model_tokenizer(settings(name), TEMPLATE).hash == gpt2_tokenizer.hash


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": 50257, "eos_token_id": 50256}, None),
        ({"vocab_size": 51200}, None),
        (
            {"vocab_size": 50265, "eos_token_id": 0},
            r"its end-of-text is 0, not GPT-2's 50256 .*model\.tokenizer=gpt2 if",
        ),
        ({"vocab_size": 3000}, r"no tokenizer there, and its 3000 tokens are not GPT-2's 50257"),
    ],
)
def test_a_folder_without_a_tokenizer_has_gpt2s_where_its_config_does_not_say_otherwise(
    tmp_path, gpt2_tokenizer, config, message
):
    write_json(tmp_path / "config.json", config)
    asked = settings(str(tmp_path))
    if message is None:
        assert model_tokenizer(asked, TEMPLATE).hash == gpt2_tokenizer.hash
    else:
        with pytest.raises(WeightsError, match=message):
            model_tokenizer(asked, TEMPLATE)
        assert model_tokenizer(settings(str(tmp_path), "gpt2"), TEMPLATE).hash == gpt2_tokenizer.hash


def test_a_foreign_one_by_name_is_taken_and_said(folder, gpt2_tokenizer):
    asked = settings(str(folder), "gpt2")
    assert model_tokenizer(asked, TEMPLATE).hash == gpt2_tokenizer.hash
    assert "has a tokenizer of its own" in foreign(asked, gpt2_tokenizer)


def test_one_that_cannot_be_read_is_an_error_of_its_file(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"tokenizer\.json: not a tokenizer that can be read"):
        model_tokenizer(settings(str(folder)), TEMPLATE)
