"""What most families have in common (Llama's form), and where each differs: config.json and names. Needs no torch.

The facts are those of each family's class in transformers; a key of config.json that is not known here is refused,
since it may change the arithmetic.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ift.model.config import ACTIVATIONS, GPTConfig, Rope
from ift.model.families.family import HEAD, Family, whole

NAMES = {
    "wte": ("embed_tokens",),
    "ln_f": ("norm",),
    HEAD: ("lm_head",),
    "ln_1": ("input_layernorm",),
    "ln_2": ("post_attention_layernorm",),
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.q_norm": ("self_attn.q_norm",),
    "attn.k_norm": ("self_attn.k_norm",),
    "attn.c_proj": ("self_attn.o_proj",),
    "mlp.c_fc": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.c_proj": ("mlp.down_proj",),
}
AFTER = {"ln_1_out": ("post_attention_layernorm",), "ln_2_out": ("post_feedforward_layernorm",)}
BOTH = {**AFTER, "ln_2": ("pre_feedforward_layernorm",)}
FUSED = {"attn.c_attn": ("self_attn.qkv_proj",), "mlp.c_fc": ("mlp.gate_up_proj",)}

# keys of config.json that are read somewhere below, or do not change what a trained model computes
SIZES = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps", "layer_norm_eps", "hidden_act",
    "hidden_activation", "attention_bias", "mlp_bias", "layer_types", "sliding_window", "use_sliding_window",
    "max_window_layers", "sliding_window_pattern", "_sliding_window_pattern", "no_rope_layers",
    "no_rope_layer_interval", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
    "embedding_multiplier", "logits_scaling", "residual_multiplier", "attention_multiplier", "use_parallel_residual",
    "qk_layernorm",
}  # fmt: skip
ROTARY = {
    "rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "original_max_position_embeddings",
    "partial_rotary_factor", "rotary_pct", "rotary_emb_base",
}  # fmt: skip
STRETCHED = {  # keys of rope_scaling and rope_parameters
    "rope_type", "type", "factor", "low_freq_factor", "high_freq_factor", "attention_factor", "mscale",
    "mscale_all_dim", "beta_slow", "beta_fast", "truncate", "short_factor", "long_factor",
}  # fmt: skip
LAYERS, BY_LAYER = {"full_attention", "sliding_attention"}, ("gemma3_text", "olmo3")  # rotations by the type of a layer
SILENT = {
    "architectures", "auto_map", "model_type", "dtype", "torch_dtype", "transformers_version", "use_cache",
    "initializer_range", "attention_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout",
    "classifier_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "pretraining_tp", "output_attentions",
    "output_hidden_states", "return_dict", "cache_implementation", "attn_implementation", "gradient_checkpointing",
    "chunk_size_feed_forward", "id2label", "label2id", "problem_type", "tokenizer_class", "is_encoder_decoder",
    "use_flash_attn", "unsloth_fixed", "unsloth_version", "_name_or_path", "_attn_implementation", "name_or_path",
    "is_llama_config", "transformers.js_config", "image_token_index", "license", "tasks",
}  # fmt: skip
OTHERWISE = {  # keys that are known at one value only
    "is_decoder": (False, True, None),
    "add_cross_attention": (False, None),
    "use_bidirectional_attention": (False, None),
    "rope_interleaved": (False, None),
}
EMPTY: tuple[Any, ...] = (None, False, {}, [], "")


def check_keys(config: Mapping[str, Any]) -> None:
    """Raises ValueError for a key that may change the arithmetic and is not known."""
    for key, value in config.items():
        if key in OTHERWISE:
            if value not in OTHERWISE[key]:
                raise ValueError(f"{key} is {json.dumps(value)}, which the decoder does not know")
        elif key not in SIZES | ROTARY | SILENT and value not in EMPTY:
            raise ValueError(f"{key} is {json.dumps(value)[:60]}, which the decoder does not know")


def sizes(config: Mapping[str, Any], *, tied: bool = False, act: str = "silu", theta: float = 1e4) -> dict[str, Any]:
    """What all of these families say alike, with what stands for a key that is not there."""
    check_keys(config)
    name = config.get("hidden_act") or config.get("hidden_activation") or act
    if name not in ACTIVATIONS:
        raise ValueError(f"hidden_act is {name}, not one of {', '.join(ACTIVATIONS)}")
    heads, layers, width = (whole(config, key) for key in ("num_attention_heads", "num_hidden_layers", "hidden_size"))
    head_dim = whole(config, "head_dim", max(1, width // heads))
    biases = ("qkv", "attention") if config.get("attention_bias") else ()
    return {
        "vocab_size": whole(config, "vocab_size"),
        "context_length": whole(config, "max_position_embeddings"),
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
        "tie_weights": bool(config.get("tie_word_embeddings", tied)),
        "n_inner": whole(config, "intermediate_size"),
        "activation": ACTIVATIONS[name],
        "norm": "rms",
        "norm_eps": float(config.get("rms_norm_eps") or 1e-6),
        "kv_heads": whole(config, "num_key_value_heads", heads),
        "head_width": head_dim,
        "gated": True,
        "biases": (*biases, "mlp") if config.get("mlp_bias") else biases,
        "learned_positions": False,
        "ropes": (read_rope(config, head_dim, theta),),
        "rope_of": (0,) * layers,
        "family": str(config.get("model_type")),
        "source": json.dumps(config),
    }


def read_rope(
    config: Mapping[str, Any], head_dim: int, theta: float, *, part: float = 1.0, kind: str | None = None
) -> Rope:
    """The rotation that config.json gives, in either of its dialects.

    transformers 5 has all in rope_parameters, which differ by the type of the layer in some families (kind); before it
    was rope_theta and rope_scaling. Where both are there, they say the same.
    """
    stated = config.get("rope_parameters") or {}
    if kind and kind in stated:
        stated = stated[kind]
    elif kind and not any(isinstance(value, Mapping) for value in stated.values()) and kind == "sliding_attention":
        stated = {}
    scaling = {**(config.get("rope_scaling") or {}), **stated} if kind != "sliding_attention" else dict(stated)
    known = STRETCHED | ROTARY | (LAYERS if config.get("model_type") in BY_LAYER else set())
    unknown = [key for key, value in scaling.items() if key not in known and value not in EMPTY]
    if unknown:
        raise ValueError(f"{unknown[0]} of its rotation is not known to the decoder")
    name = scaling.get("rope_type") or scaling.get("type") or "default"
    theta = float(scaling.get("rope_theta") or config.get("rope_theta") or config.get("rotary_emb_base") or theta)
    part = (
        scaling.get("partial_rotary_factor") or config.get("partial_rotary_factor") or config.get("rotary_pct") or part
    )
    channels = int(head_dim * part)
    context = int(config["max_position_embeddings"])
    original = int(
        scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings") or context
    )
    if name == "default":
        return Rope(theta, channels)
    if name == "linear":
        return Rope(theta, channels, name, factor=float(scaling["factor"]))
    if name == "llama3":
        low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
        return Rope(theta, channels, name, float(scaling["factor"]), original, low, high)
    factor = float(scaling.get("factor") or context / original)
    scale = scaling.get("attention_factor")
    if name == "yarn":
        if scale is None:
            m, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
            scale = _mscale(factor, m) / _mscale(factor, all_dim) if m and all_dim else _mscale(factor, 1.0)
        low, high = float(scaling.get("beta_slow") or 1), float(scaling.get("beta_fast") or 32)
        rounded = bool(scaling.get("truncate", True))
        return Rope(theta, channels, name, factor, original, low, high, rounded, float(scale))
    if name in ("longrope", "su"):
        if "original_max_position_embeddings" in config or not scaling.get("factor"):
            factor = context / original
        if scale is None:
            scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        short, long = (tuple(map(float, scaling[key])) for key in ("short_factor", "long_factor"))
        if {len(short), len(long)} != {channels // 2}:
            raise ValueError(f"short_factor and long_factor have not {channels // 2} numbers each")
        return Rope(theta, channels, "longrope", factor, original, scale=float(scale), short=short, long=long)
    raise ValueError(f"rope_type is {name}, which the decoder does not know")


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def windows(config: Mapping[str, Any], layer_types: list[str] | None = None) -> tuple[int | None, ...]:
    """The window of each layer: of those of type sliding_attention. layer_types: where config.json has none."""
    layers, window = int(config["num_hidden_layers"]), config.get("sliding_window")
    types = config.get("layer_types") or layer_types or ["full_attention"] * layers
    unknown = set(types) - {"full_attention", "sliding_attention"}
    if unknown or len(types) != layers:
        raise ValueError(f"layer_types has {sorted(unknown) or f'{len(types)} entries for {layers} layers'}")
    return tuple(int(window) if window and kind == "sliding_attention" else None for kind in types)


def by_pattern(config: Mapping[str, Any], every: int) -> list[str]:
    """Windows in all layers but each `every`th."""
    layers = int(config["num_hidden_layers"])
    return ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(layers)]


# -- the families -----------------------------------------------------------------------------------------------------


def llama(config: Mapping[str, Any]) -> GPTConfig:
    return GPTConfig(**sizes(config))


def mistral(config: Mapping[str, Any]) -> GPTConfig:
    everywhere = ["sliding_attention"] * int(config["num_hidden_layers"])
    return GPTConfig(**{**sizes(config), "windows": windows(config, everywhere)})


def qwen(config: Mapping[str, Any]) -> GPTConfig:
    """Qwen2 and Qwen3; a window only where use_sliding_window, and from layer max_window_layers on."""
    said = sizes(config, theta=1e4)
    if config.get("use_sliding_window"):
        last = int(config.get("max_window_layers", 28))
        types = ["sliding_attention" if n >= last else "full_attention" for n in range(said["n_layer"])]
        said["windows"] = windows({"sliding_window": 4096, **config}, types)
    if config["model_type"] == "qwen2":
        said["biases"] = ("qkv",)
    else:
        said["qk_norm"] = "head"
        if not config.get("head_dim"):
            raise KeyError("head_dim")
    return GPTConfig(**said)


def smollm3(config: Mapping[str, Any]) -> GPTConfig:
    said = sizes(config, tied=True, theta=2e6)
    every = int(config.get("no_rope_layer_interval", 4))
    turned = config.get("no_rope_layers") or [int((n + 1) % every != 0) for n in range(said["n_layer"])]
    said["rope_of"] = tuple(0 if has else None for has in turned)  # in spite of its name, 1 stands for a rotation
    if config.get("use_sliding_window"):
        said["windows"] = windows(config, ["full_attention" if has else "sliding_attention" for has in turned])
    return GPTConfig(**said)


def gemma(config: Mapping[str, Any]) -> GPTConfig:
    said = sizes({**config, "hidden_act": None, "hidden_activation": None}, tied=True, act="gelu_pytorch_tanh")
    return GPTConfig(**{**said, **_gemma(config), "source": json.dumps(config)})


def _gemma(config: Mapping[str, Any]) -> dict[str, Any]:
    if not config.get("head_dim"):
        raise KeyError("head_dim")
    return {"norm_offset": 1.0, "embedding_scale": math.sqrt(config["hidden_size"])}


def gemma2(config: Mapping[str, Any]) -> GPTConfig:
    said = {**sizes(config, tied=True, act="gelu_pytorch_tanh"), **_gemma(config)}
    return GPTConfig(
        **said,
        norms="both",
        score_scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        score_cap=_cap(config, "attn_logit_softcapping", 50.0),
        logit_cap=_cap(config, "final_logit_softcapping", 30.0),
        windows=windows({"sliding_window": 4096, **config}, by_pattern(config, 2)),
    )


def _cap(config: Mapping[str, Any], key: str, otherwise: float | None) -> float | None:
    value = config.get(key, otherwise)
    return float(value) if value else None


def gemma3(config: Mapping[str, Any]) -> GPTConfig:
    """gemma3_text; of gemma3, which sees pictures too, the part that reads text."""
    if config.get("model_type") == "gemma3":
        text = {key: value for key, value in config["text_config"].items() if key != "model_type"}
        return gemma3({**GEMMA3_TEXT, **text, "model_type": "gemma3_text"})
    said = {**sizes(config, tied=True, act="gelu_pytorch_tanh"), **_gemma(config)}
    pattern = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
    types = config.get("layer_types") or by_pattern(config, pattern)
    head_dim = int(said["head_width"])
    local = read_rope({**config, "rope_theta": None}, head_dim, 1e4, kind="sliding_attention")
    if "rope_local_base_freq" in config and not (config.get("rope_parameters") or {}).get("sliding_attention"):
        local = Rope(float(config["rope_local_base_freq"]), head_dim)
    said["ropes"] = (read_rope(config, head_dim, 1e6, kind="full_attention"), local)
    said["rope_of"] = tuple(int(kind == "sliding_attention") for kind in types)
    return GPTConfig(
        **said,
        norms="both",
        qk_norm="head",
        score_scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        score_cap=_cap(config, "attn_logit_softcapping", None),
        logit_cap=_cap(config, "final_logit_softcapping", None),
        windows=windows({"sliding_window": 4096, **config}, types),
    )


GEMMA3_TEXT = {  # what a text_config may leave out, by transformers' Gemma3TextConfig
    "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
}  # fmt: skip


def phi3(config: Mapping[str, Any]) -> GPTConfig:
    everywhere = ["sliding_attention"] * int(config["num_hidden_layers"])
    return GPTConfig(**{**sizes(config), "windows": windows(config, everywhere)})


def olmo(config: Mapping[str, Any]) -> GPTConfig:
    """OLMo 2 and 3: norms of what attention and MLP give, and of all queries and all keys as one."""
    said = {**sizes({"rms_norm_eps": 1e-5, **config}), "source": json.dumps(config)}
    if config["model_type"] == "olmo3":
        types = config.get("layer_types") or by_pattern(config, 4)
        said["windows"] = windows({"sliding_window": 4096, **config}, types)
        head_dim = int(said["head_width"])
        full = read_rope(config, head_dim, 5e5, kind="full_attention")
        local = read_rope(config, head_dim, 5e5, kind="sliding_attention")
        said["ropes"], said["rope_of"] = (full, local), tuple(int(kind == "sliding_attention") for kind in types)
        if full == local:
            said["ropes"], said["rope_of"] = (full,), (0,) * said["n_layer"]
    return GPTConfig(**said, norms="after", qk_norm="all")


def granite(config: Mapping[str, Any]) -> GPTConfig:
    return GPTConfig(
        **sizes(config),
        score_scale=float(config.get("attention_multiplier", 1.0)),
        embedding_scale=float(config.get("embedding_multiplier", 1.0)),
        residual_scale=float(config.get("residual_multiplier", 1.0)),
        logit_scale=1 / float(config.get("logits_scaling", 1.0)),
    )


def gpt_neox(config: Mapping[str, Any]) -> GPTConfig:
    """GPT-NeoX and Pythia; attention and MLP read the same states through a norm each."""
    said = sizes(config, act="gelu")
    said["ropes"] = (read_rope(config, said["head_width"], 1e4, part=0.25),)
    parallel = config.get("use_parallel_residual", True)
    return GPTConfig(
        **{
            **said,
            "gated": False,
            "norm": "layer",
            "norm_eps": float(config.get("layer_norm_eps", 1e-5)),
            "kv_heads": None,
            "biases": ("qkv", "attention", "mlp") if config.get("attention_bias", True) else ("mlp",),
            "parallel": "two norms" if parallel else "",
        }
    )


def phi(config: Mapping[str, Any]) -> GPTConfig:
    """Phi-1 to Phi-2; attention and MLP read the same states through one norm."""
    said = sizes(config, act="gelu_new")
    said["ropes"] = (read_rope(config, said["head_width"], 1e4, part=0.5),)
    return GPTConfig(
        **{
            **said,
            "gated": False,
            "norm": "layer",
            "norm_eps": float(config.get("layer_norm_eps", 1e-5)),
            "biases": ("qkv", "attention", "mlp", "head"),
            "parallel": "one norm",
            "qk_norm": "head" if config.get("qk_layernorm") else "",
        }
    )


COMMON = {
    "llama": Family("LlamaForCausalLM", llama, NAMES),
    "mistral": Family("MistralForCausalLM", mistral, NAMES),
    "qwen2": Family("Qwen2ForCausalLM", qwen, NAMES),
    "qwen3": Family("Qwen3ForCausalLM", qwen, NAMES),
    "smollm3": Family("SmolLM3ForCausalLM", smollm3, NAMES),
    "gemma": Family("GemmaForCausalLM", gemma, NAMES),
    "gemma2": Family("Gemma2ForCausalLM", gemma2, {**NAMES, **BOTH}),
    "gemma3_text": Family(
        "Gemma3ForCausalLM", gemma3, {**NAMES, **BOTH}, aliases={"language_model.model.": "", "language_model.": ""}
    ),
    "phi3": Family("Phi3ForCausalLM", phi3, {**NAMES, **FUSED}),
    "olmo2": Family("Olmo2ForCausalLM", olmo, {**NAMES, **AFTER}),
    "olmo3": Family("Olmo3ForCausalLM", olmo, {**NAMES, **AFTER}),
    "granite": Family("GraniteForCausalLM", granite, NAMES),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM",
        gpt_neox,
        {
            "wte": ("embed_in",),
            "ln_f": ("final_layer_norm",),
            HEAD: ("embed_out",),
            "ln_1": ("input_layernorm",),
            "ln_2": ("post_attention_layernorm",),
            "attn.c_attn": ("attention.query_key_value",),
            "attn.c_proj": ("attention.dense",),
            "mlp.c_fc": ("mlp.dense_h_to_4h",),
            "mlp.c_proj": ("mlp.dense_4h_to_h",),
        },
        prefix="gpt_neox.",
        forms={"attn.c_attn": "head by head"},
        constants=(".attention.rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"),
        aliases={"lm_head.": "embed_out."},
    ),
    "phi": Family(
        "PhiForCausalLM",
        phi,
        {
            **NAMES,
            "ln_f": ("final_layernorm",),
            "attn.q_norm": ("self_attn.q_layernorm",),
            "attn.k_norm": ("self_attn.k_layernorm",),
            "attn.c_proj": ("self_attn.dense",),
            "mlp.c_fc": ("mlp.fc1",),
            "mlp.c_proj": ("mlp.fc2",),
        },
    ),
}
