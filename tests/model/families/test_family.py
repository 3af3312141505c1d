"""Every family against transformers: the same logits, gradients and answers from the same folder.

Weights are scaled so that nothing hides behind small numbers (about 1.5 / sqrt(fan in), vectors around one), and rows
are longer than every window and every original context (by_transformers.py).
"""

import json

import pytest
import torch

from ift.artifacts.weights import build_model, inspect_folder, save_weights
from ift.generation.engine import generate
from ift.model.families import family_of, read_config
from ift.model.families.family import to_theirs
from ift.model.gpt import GPT
from ift.model.layouts import PADDED, Flat
from tests.model.families.by_transformers import LENGTH as T
from tests.model.families.by_transformers import VOCABULARY, tokens
from tests.model.families.by_transformers import made as model_of

SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
WIDE = {"head_dim": 8}  # 4 heads of 8 are wider than the states of 24
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1], "long_factor": [1.5, 4.0],
    "original_max_position_embeddings": 16, "partial_rotary_factor": 0.75,
}  # fmt: skip
# name -> model_type, what differs from SIZES
CASES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {}),
    "llama3": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
    "llama linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama yarn": ("llama", {"rope_parameters": YARN}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True, **WIDE}),
    "mistral": ("mistral", {"sliding_window": 7, **WIDE}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}),
    "qwen3": ("qwen3", {**WIDE, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", {}),
    "gemma": ("gemma", WIDE),
    "gemma2": ("gemma2", {**WIDE, "sliding_window": 7, "query_pre_attn_scalar": 12, "attn_logit_softcapping": 3.0,
                          "final_logit_softcapping": 4.0}),
    "gemma3_text": ("gemma3_text", {**WIDE, "sliding_window": 7, "query_pre_attn_scalar": 12, "num_hidden_layers": 7}),
    "gemma3 linear": ("gemma3_text", {**WIDE, "sliding_window": 7, "num_hidden_layers": 7, "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    "phi3": ("phi3", {"sliding_window": 7}),
    "phi3 longrope": ("phi3", {"rope_parameters": LONG, "tie_word_embeddings": True,
                               "original_max_position_embeddings": 16}),
    "phi": ("phi", {"qk_layernorm": True, "hidden_size": 32}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": 7}),
    "gpt_neox": ("gpt_neox", {"num_key_value_heads": None}),
    "gpt_neox in turn": ("gpt_neox", {"num_key_value_heads": None, "use_parallel_residual": False}),
    "granite": ("granite", {"attention_multiplier": 0.3, "embedding_multiplier": 2.0, "residual_multiplier": 0.7,
                            "logits_scaling": 3.0}),
}  # fmt: skip
SOME = ("llama3", "gemma2", "phi3", "olmo2", "gpt_neox", "phi")  # tests/long takes all of them


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """name -> folder, model of transformers; each is made once."""
    pytest.importorskip("transformers", exc_type=ImportError)
    known = {}

    def make(name: str):
        if name not in known:
            kind, differing = CASES[name]
            theirs = model_of(kind, {**SIZES, **differing})
            folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
            theirs.save_pretrained(folder)
            known[name] = folder, theirs
        return known[name]

    return make


def load(folder) -> GPT:
    found = inspect_folder(folder)
    return build_model(found.config, found).eval()


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(made, name):
    folder, theirs = made(name)
    ids = tokens(2, T)
    with torch.no_grad():
        expected, ours = theirs(ids).logits, load(folder)(ids)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SOME)
def test_gradients_are_those_of_transformers(made, name):
    compare_gradients(*made(name))


def compare_gradients(folder, theirs):
    """Of every published tensor, for rows that are padded, one after the other, and with a shared beginning."""
    ours = load(folder)
    ids = tokens(2, T)
    ids[1, :9] = ids[0, :9]  # the rows begin alike
    targets = torch.cat([ids[:, 1:], ids[:, :1]], dim=1)
    expected = published_gradients(theirs, theirs.state_dict(keep_vars=True), theirs(ids).logits, targets)
    layouts = {
        "padded": (PADDED, ids, targets),
        "flat": (Flat([T, T]), ids.flatten(), targets.flatten()),
        "shared": (Flat([T - 9, T - 9], prefix=9), torch.cat([ids[0, :9], ids[0, 9:], ids[1, 9:]]), None),
    }
    losses = {}
    for kind, (layout, given, wanted) in layouts.items():
        ours.zero_grad(set_to_none=True)
        hidden = ours.hidden(given, layout)
        if wanted is None:  # the shared tokens count twice
            targets_of = torch.cat([targets[0, :9], targets[0, 9:], targets[1, 9:]])
            weights = torch.ones(len(targets_of))
            weights[:9] = 2
            shared_next = ours.losses(hidden, targets_of)
            last = ours.losses(hidden[8:9], targets[1, 8:9]) - ours.losses(hidden[8:9], targets[0, 8:9])
            loss = (shared_next * weights).sum() + last.sum()
        else:
            loss, _ = ours.loss(hidden.flatten(0, -2), wanted.flatten())
        loss.backward()
        losses[kind] = loss.item()
        for stored, gradient in ours_as_published(ours).items():
            wanted_gradient = expected[stored]
            size = wanted_gradient.norm().clamp(min=1e-3)
            assert (gradient - wanted_gradient).norm() / size < 1e-4, (kind, stored)
    assert losses["flat"] == pytest.approx(losses["padded"], rel=1e-6)
    assert losses["shared"] == pytest.approx(losses["padded"], rel=1e-6)


def published_gradients(model, tensors, logits, targets) -> dict[str, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").backward()
    return {name: value.grad.clone() for name, value in tensors.items() if value.grad is not None}


def ours_as_published(model: GPT) -> dict[str, torch.Tensor]:
    """Gradients by the names that transformers has in memory."""
    family, parameters = family_of(model.config), dict(model.named_parameters())
    found = {}
    for name, pieces in family.pieces(model.config).items():
        for piece in pieces:
            stored = family.stored_name(piece.name).replace("embed_out.", "lm_head.")
            gradient = parameters[name].grad
            gradient = gradient.to_dense() if gradient.is_sparse else gradient
            found[stored] = to_theirs(gradient[piece.rows], piece, model.config)
    return found


@pytest.mark.parametrize("name", SOME)
def test_answers_are_those_of_transformers(made, name):
    compare_answers(*made(name), lengths=(1, 3, 9, 20))


def compare_answers(folder, theirs, lengths, use_cache=True):
    ours = load(folder)
    prompts = [tokens(n, seed=n).tolist() for n in lengths]
    expected = []
    for prompt in prompts:
        with torch.no_grad():
            out = theirs.generate(
                torch.tensor([prompt]), max_new_tokens=8, do_sample=False, eos_token_id=2, pad_token_id=0,
                use_cache=use_cache,
            )  # fmt: skip
        ids = out[0, len(prompt) :].tolist()
        expected.append(ids[: ids.index(2)] if 2 in ids else ids)
    answers = generate(ours, prompts, end_of_text=2, max_new_tokens=8)
    assert [answer.ids for answer in answers] == expected


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_by_transformers(made, name, tmp_path):
    """In both dialects of config.json: the keys of version 5 are taken away, and it still reads the same."""
    import transformers

    folder, theirs = made(name)
    model = load(folder)
    save_weights(model, tmp_path, end_of_text=2)
    assert weights_of(tmp_path) == weights_of(folder)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    ids = tokens(1, T)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    old = {key: value for key, value in config.items() if key != "rope_parameters"}
    new = {key: value for key, value in config.items() if key not in OLD_DIALECT}
    assert read_config(old).ropes == read_config(new).ropes == model.config.ropes
    assert read_config(old) == model.config


OLD_DIALECT = ("rope_theta", "rope_scaling", "rotary_pct", "rotary_emb_base", "rope_local_base_freq")


def weights_of(folder) -> dict[str, tuple]:
    from safetensors.numpy import load_file

    return {name: (value.shape, value.tobytes()) for name, value in load_file(folder / "model.safetensors").items()}


MISTAKES = [
    ("llama3", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("gemma2", {"query_pre_attn_scalar": 8}),
    ("gpt_neox", {"hidden_act": "gelu_new"}),
    ("phi", {"hidden_act": "gelu"}),
    ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 10000, "partial_rotary_factor": 1.0}}),
    ("mistral", {"sliding_window": 8}),
    ("gemma3_text", {"layer_types": ["full_attention"] * 7}),
    ("phi3 longrope", {"rope_parameters": {**LONG, "attention_factor": 1.0}}),
    ("phi3 longrope", {"rope_parameters": {**LONG, "long_factor": [1.0, 1.1]}}),
    ("llama yarn", {"rope_parameters": {**YARN, "attention_factor": 1.0}}),
    ("gpt_neox", {"use_parallel_residual": False}),
    ("granite", {"residual_multiplier": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "mistake"), MISTAKES, ids=lambda value: value if isinstance(value, str) else str(value)[:40]
)
def test_each_mistake_is_seen(made, name, mistake, tmp_path):
    """The bound of 1e-4 tells a right decoder from one that leaves out a detail."""
    folder, theirs = made(name)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    for key in OLD_DIALECT if "rope_parameters" in mistake else ():
        config.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps({**config, **mistake}))
    ids = tokens(2, T)
    with torch.no_grad():
        worst = (load(tmp_path)(ids) - theirs(ids).logits).abs().max()
    assert worst > 5e-4
