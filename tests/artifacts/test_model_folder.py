"""A model folder rebuilds the model, its tokenizer and its template by itself, here and in transformers."""

import json

import pytest
import torch
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import GPT2LMHeadModel

from ift.artifacts.model_folder import load_model_folder, save_model_folder
from ift.errors import WeightsError
from ift.text.conversations import Conversation
from ift.text.encoding import encode_prompt, made_for, turn_end
from ift.text.templates import Segment, Template
from ift.text.tokenizer_files import read_tokenizer

TEMPLATE = Template("short", (Segment("{instruction}"), Segment("\n{output}", supervised=True)), mask=False)


@pytest.fixture
def folder(tmp_path, make_model, byte_tokenizer):
    save_model_folder(tmp_path / "model", make_model(vocab_size=257), byte_tokenizer, TEMPLATE, {"step": 7})
    return tmp_path / "model"


@pytest.mark.parametrize("tied", [True, False])
def test_a_folder_gives_back_what_was_saved(tmp_path, make_model, byte_tokenizer, tied):
    model = make_model(vocab_size=257, tie_weights=tied, dropout=0.1)
    with torch.no_grad():
        model.lm_head.weight.mul_(2)  # an untied head of its own
    save_model_folder(tmp_path / "model", model, byte_tokenizer, TEMPLATE)
    again, its_tokenizer, its_template = load_model_folder(tmp_path / "model")
    assert its_template == TEMPLATE
    assert its_tokenizer.encode("Zwölf <|endoftext|>") == byte_tokenizer.encode("Zwölf <|endoftext|>")
    assert its_tokenizer.end_of_text == 256
    assert again.config.tie_weights is tied
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name

    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "model").eval()
    ids = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids), theirs(ids).logits, atol=1e-5, rtol=0)
    assert theirs.config.eos_token_id == 256


def test_a_folder_holds_json_and_safetensors_only(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "generation_config.json",
        "ift.json",
        "manifest.json",
        "model.safetensors",
        "prompt.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((folder / "ift.json").read_text()) == {"step": 7}
    assert [path.name for path in folder.parent.iterdir()] == ["model"]  # nothing half-written beside it


def test_saving_again_replaces_the_whole_folder(folder, make_model, byte_tokenizer):
    (folder / "left over").write_text("from before")
    save_model_folder(folder, make_model(vocab_size=257, seed=5), byte_tokenizer, TEMPLATE, {"step": 8})
    model, _, _ = load_model_folder(folder)
    assert torch.equal(model.wte.weight, make_model(vocab_size=257, seed=5).wte.weight)
    assert json.loads((folder / "ift.json").read_text()) == {"step": 8}
    assert not (folder / "left over").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_crash_while_writing_leaves_the_folder_before(folder, make_model, byte_tokenizer, monkeypatch):
    def disk_full(*args, **kwargs):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ift.artifacts.model_folder.save_weights", disk_full)
        with pytest.raises(OSError, match="no space"):
            save_model_folder(folder, make_model(vocab_size=257, seed=5), byte_tokenizer, TEMPLATE)
    model, _, _ = load_model_folder(folder)
    assert torch.equal(model.wte.weight, make_model(vocab_size=257).wte.weight)


def test_a_template_that_was_changed_after_training_is_refused(folder):
    value = json.loads((folder / "prompt.json").read_text())
    value["segments"][0]["text"] = "Please: {instruction}"
    (folder / "prompt.json").write_text(json.dumps(value))
    with pytest.raises(WeightsError, match=r"prompt\.json: changed since the model was trained"):
        load_model_folder(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "prompt.json", "tokenizer.json"])
def test_a_folder_with_a_file_missing_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=name):
        load_model_folder(folder)


def test_a_tokenizer_of_another_model_is_refused(tmp_path, make_model, byte_tokenizer):
    save_model_folder(tmp_path / "model", make_model(vocab_size=200), byte_tokenizer, TEMPLATE)
    with pytest.raises(WeightsError, match="the tokenizer has 257 tokens, the model 200"):
        load_model_folder(tmp_path / "model")


def test_the_token_that_ends_a_turn_is_the_first_end_that_a_folder_names(tmp_path, make_model):
    library = Library(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["</s>", "<a>", "<e>"]
    library.train_from_iterator(
        [], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    (tmp_path / "given").mkdir()
    library.save(str(tmp_path / "given/tokenizer.json"))
    (tmp_path / "given/tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    tokenizer = read_tokenizer(tmp_path / "given")
    segments = (Segment("<a>{instruction}<a>"), Segment("{output}<e>", supervised=True))
    template = made_for(Template("marked", segments), tokenizer)
    model = make_model(vocab_size=259)
    model.stops = frozenset({turn_end(template, tokenizer), 1})  # as training sets them, with one of the model's own
    save_model_folder(tmp_path / "model", model, tokenizer, template)
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "model" / name).read_text())["eos_token_id"] == [2, 0, 1]
    again, its_tokenizer, its_template = load_model_folder(tmp_path / "model")
    assert (again.stops, its_template) == ({0, 1, 2}, template)
    assert encode_prompt(Conversation("q"), its_template, its_tokenizer)[::2] == [1, 1]
