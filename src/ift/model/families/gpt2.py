"""GPT-2 as it is published: names, shapes and config.json. Needs no torch.

Our modules have the published names. In files most stand behind "transformer.", and four matrices of a block are
(in, out) where torch's Linear is (out, in): they are transposed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ift.model.config import ACTIVATIONS, GPTConfig
from ift.model.families.family import HEAD, Family, whole

PUBLISHED = {  # n_layer -> the model with so many
    12: "gpt2-small",
    24: "gpt2-medium",
    36: "gpt2-large",
    48: "gpt2-xl",
}
GPT2_TOKENS = 50257  # of the published vocabulary, the end-of-text last
GPT2_VOCABULARY = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")  # on the Hub, or openai-community/...

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


def read_config(config: Mapping[str, Any]) -> GPTConfig:
    """Sizes and arithmetic that a config.json gives; dropout 0, and the head tied unless it says otherwise.

    Raises KeyError, TypeError or ValueError where it is not that of a GPT-2, with what it is.
    """
    if config.get("model_type") not in (None, "gpt2"):
        raise ValueError(f"model_type is {config['model_type']}")
    if config.get("add_cross_attention"):
        raise ValueError("add_cross_attention is true (the decoder of a pair)")
    activation = config.get("activation_function") or "gelu_new"
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation_function is {activation}, not one of {', '.join(ACTIVATIONS)}")
    width = whole(config, "n_embd")
    inner = whole(config, "n_inner", 4 * width)
    return GPTConfig(
        n_layer=whole(config, "n_layer"),
        n_head=whole(config, "n_head"),
        n_embd=width,
        context_length=whole(config, "n_positions"),
        vocab_size=whole(config, "vocab_size"),
        tie_weights=bool(config.get("tie_word_embeddings", True)),
        n_inner=None if inner == 4 * width else inner,
        activation=ACTIVATIONS[activation],
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
        scale_scores=bool(config.get("scale_attn_weights", True)),
        scale_by_layer=bool(config.get("scale_attn_by_inverse_layer_idx", False)),
    )


def differs_from_published(config: GPTConfig) -> str | None:
    """What in the arithmetic is not that of the published GPT-2, in the words of config.json; None: nothing."""
    own = GPTConfig(config.vocab_size, config.context_length, config.n_layer, config.n_head, config.n_embd)
    theirs = hf_config(own, 0)
    return next(
        (f"{key}={value}" for key, value in hf_config(config, 0).items() if key in ARITHMETIC and value != theirs[key]),
        None,
    )


ARITHMETIC = (  # keys of config.json
    "activation_function", "layer_norm_epsilon", "scale_attn_weights", "scale_attn_by_inverse_layer_idx",
)  # fmt: skip


def hf_config(config: GPTConfig, end_of_text: int, stops: Iterable[int] = ()) -> dict[str, Any]:
    """config.json as transformers' GPT2LMHeadModel reads it. stops: other tokens that end an answer."""
    ends = [end_of_text, *sorted({*stops} - {end_of_text})]
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": config.n_inner,
        "activation_function": next(theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation),
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.scale_scores,
        "scale_attn_by_inverse_layer_idx": config.scale_by_layer,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "bos_token_id": end_of_text,
        "eos_token_id": ends if ends[1:] else end_of_text,
        "tie_word_embeddings": config.tie_weights,
        "dtype": "float32",
    }


MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
GPT2 = Family(
    "GPT2LMHeadModel",
    read_config,
    {name: (name,) for name in ("wte", "wpe", "ln_f", HEAD, "ln_1", "ln_2", *MATRICES)},
    prefix="transformer.",
    blocks="h",
    forms=dict.fromkeys(MATRICES, "transposed"),
    constants=(".attn.bias", ".attn.masked_bias"),  # of older exports: the causal mask
)
