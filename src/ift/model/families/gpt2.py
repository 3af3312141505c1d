"""GPT-2 as it is published: names, shapes and config.json. Needs no torch.

Our modules have the published names. In files most stand behind "transformer.", and four matrices of a block are
(in, out) where torch's Linear is (out, in): they are transposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ift.model.config import GPTConfig

EMBEDDING, POSITIONS, HEAD = "wte.weight", "wpe.weight", "lm_head.weight"
VOCABULARY = (EMBEDDING, HEAD)  # matrices with a row for each token
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
CONSTANTS = (".attn.bias", ".attn.masked_bias")  # of older exports: the causal mask, no weights
PUBLISHED = {  # n_layer -> the model with so many
    12: "gpt2-small",
    24: "gpt2-medium",
    36: "gpt2-large",
    48: "gpt2-xl",
}

# what config.json may say of the arithmetic, GPT-2's own first; other models share its layout but not these
ARITHMETIC: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
}

GGUF = {  # module -> llama.cpp's name for it
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def our_name(stored: str) -> str:
    return stored.removeprefix("transformer.")


def stored_name(name: str) -> str:
    return name if name == HEAD else f"transformer.{name}"


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """The sizes that a config.json gives, by our names. Raises KeyError, TypeError or ValueError where it has none."""
    ours = {key: int(config[key]) for key in ("n_layer", "n_head", "n_embd")}
    return {**ours, "context_length": int(config["n_positions"]), "vocab_size": int(config["vocab_size"])}


def expected_shapes(n_layer: int, n_embd: int, context_length: int, vocab_size: int) -> dict[str, list[int]]:
    """Name and shape, as published, of every tensor of a GPT-2 with a tied head."""
    C = n_embd
    shapes = {EMBEDDING: [vocab_size, C], POSITIONS: [context_length, C], "ln_f.weight": [C], "ln_f.bias": [C]}
    for layer in range(n_layer):
        for name, shape in {
            "ln_1": [C], "ln_2": [C], "attn.c_attn": [C, 3 * C], "attn.c_proj": [C, C],
            "mlp.c_fc": [C, 4 * C], "mlp.c_proj": [4 * C, C],
        }.items():  # fmt: skip
            shapes[f"h.{layer}.{name}.weight"] = shape
            shapes[f"h.{layer}.{name}.bias"] = shape[-1:]
    return shapes


def shapes_of(config: GPTConfig) -> dict[str, list[int]]:
    """Name and shape, as published, of every tensor that a file of such a model holds, in a fixed order."""
    shapes = expected_shapes(config.n_layer, config.n_embd, config.context_length, config.vocab_size)
    return shapes if config.tie_weights else {**shapes, HEAD: [config.vocab_size, config.n_embd]}


def stops_of(config: Mapping[str, Any], vocab_size: int) -> frozenset[int]:
    """Tokens that end an answer: one id or several in config.json; an id that no token has is none."""
    given = config.get("eos_token_id")
    ids = given if isinstance(given, list) else [given]
    return frozenset(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < vocab_size)


def hf_config(config: GPTConfig, end_of_text: int) -> dict[str, Any]:
    """config.json as transformers' GPT2LMHeadModel reads it."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "tie_word_embeddings": config.tie_weights,
        "dtype": "float32",
    }
