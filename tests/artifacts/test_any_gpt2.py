"""`python train.py model=pretrained` on a GPT-2 as people have them: from its files to a folder for transformers."""

import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2DoubleHeadsModel

from ift.artifacts.model_folder import load_model_folder
from ift.run import read_json, read_jsonl, write_json
from tests.running import TRAIN, train

WORDS = "eins zwei drei vier fünf sechs sieben acht neun zehn".split()
ROOM = 8  # rows of the embedding that no token has


def rows(path):
    pairs = list(pairwise(WORDS))
    values = [{"instruction": f"Was kommt nach {a}? ({n})", "output": b} for n in range(5) for a, b in pairs]
    write_json(path, values)
    return path


def tokenizer() -> Tokenizer:
    """Its end-of-text is 0, as trainers put it, and a [PAD] was added: 300 tokens and one."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        [" ".join(WORDS)] * 3,
        trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False),
    )
    library.add_special_tokens(["[PAD]"])
    return library


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Another tokenizer, room for more tokens that the model likes best, n_inner, gelu, two heads, odd names, bf16."""
    path, library = tmp_path_factory.mktemp("german"), tokenizer()
    torch.manual_seed(3)
    model = GPT2DoubleHeadsModel(
        GPT2Config(
            n_layer=2, n_head=2, n_embd=32, n_positions=256, n_inner=48, vocab_size=library.get_vocab_size() + ROOM,
            activation_function="gelu", bos_token_id=0, eos_token_id=0, num_labels=1, summary_proj_to_labels=True,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=1.0 if ".ln_" in name and "weight" in name else 0.0, std=0.2)
        model.transformer.wte.weight[-ROOM:] = model.transformer.ln_f.bias * 100
    model.save_pretrained(path)
    tensors = load_file(path / "model.safetensors")
    save_file({f"_orig_mod.{name}": value.bfloat16() for name, value in tensors.items()}, path / "model.safetensors")
    library.save(str(path / "tokenizer.json"))
    rows(path / "rows.json")
    return path


def test_a_gpt2_of_another_language_trains_on_its_own_tokens_and_stays_what_it_is(folder, tmp_path, warm):
    run = tmp_path / "run"
    done = train(
        "model=pretrained", f"model.pretrained={folder}", "model.n_layer=2", "model.n_embd=32", "data=json",
        "model.context_length=200", f"data.path={folder / 'rows.json'}", "data.split=random", "logger=none",
        "trainer.max_steps=2", "generate.temperature=1", f"output_dir={run}", run=warm.run,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stdout
    assert "multiple_choice_head (choosing among continuations)" in done.stdout
    assert len(read_jsonl(run / "responses.jsonl")) == read_json(run / "summary.json")["responses"] > 0

    # what was trained in fp32 is kept so: the loss that was measured is that of these weights
    assert {tensor.dtype for tensor in load_file(run / "model" / "model.safetensors").values()} == {torch.float32}
    model, ours, _ = load_model_folder(run / "model")
    theirs, their_tokenizer = (kind.from_pretrained(run / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    config = theirs.config
    assert (config.n_inner, config.activation_function, config.n_positions) == (48, "gelu", 200)
    assert (config.vocab_size, config.eos_token_id, ours.vocab_size) == (
        ours.vocab_size + ROOM,
        0,
        len(their_tokenizer),
    )
    text = "Was kommt nach fünf?"
    assert ours.encode(text) == their_tokenizer.encode(text) == tokenizer().encode(text).ids
    ids = torch.tensor([ours.encode(text * 4)])
    with torch.no_grad():
        expected = theirs.eval()(ids).logits
        torch.testing.assert_close(model.eval()(ids), expected[..., :-ROOM], atol=1e-5, rtol=0)
    assert expected[..., -ROOM:].max() > expected[..., :-ROOM].max()  # they would have been chosen


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "tokens are not GPT-2's 50257 and its end-of-text is 0"),
        ({"vocab_size": 50265}, "no tokenizer there, and its end-of-text is 0, not GPT-2's 50256"),
    ],
)
def test_a_foreign_tokenizer_is_not_taken_without_a_word(folder, tmp_path, warm_without_torch, change, words):
    model = tmp_path / "model"
    model.mkdir()
    write_json(model / "config.json", json.loads((folder / "config.json").read_text()) | change)
    asked = ["model=pretrained", f"model.pretrained={model}", "data=json", f"data.path={folder / 'rows.json'}"]
    done = warm_without_torch.run(TRAIN, *asked, "logger=none", f"output_dir={tmp_path / 'run'}")
    assert (done.returncode, words in done.stderr) == (4, True), done.stderr
