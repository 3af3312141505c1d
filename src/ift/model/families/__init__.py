"""The families that the decoder knows, by the model_type of config.json. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ift.model.config import GPTConfig
from ift.model.families.common import COMMON
from ift.model.families.family import Family
from ift.model.families.gpt2 import GPT2, hf_config

FAMILIES: Mapping[str, Family] = {"gpt2": GPT2, **COMMON}

# what stands before tensors that are not the decoder's -> what they are for
OTHER_PARTS = {
    "multiple_choice_head.": "choosing among continuations",
    "score.": "classifying texts",
    "classifier.": "classifying tokens",
    "qa_outputs.": "finding answers in a text",
    "v_head.": "estimating values",
    "vision_tower.": "seeing pictures",
    "multi_modal_projector.": "seeing pictures",
}


def family_of(config: GPTConfig) -> Family:
    return FAMILIES[config.family]


def read_config(config: Mapping[str, Any]) -> GPTConfig:
    """Sizes and arithmetic that a config.json gives; dropout 0.

    Raises KeyError, TypeError or ValueError where it is of no known family, or not understood, with what it is.
    """
    if not isinstance(config, dict):
        raise ValueError("it is no JSON object")
    kind = config.get("model_type") or "gpt2"
    if stored := config.get("quantization_config"):
        method = stored.get("quant_method") if isinstance(stored, dict) else None
        raise ValueError(f"its weights are quantized ({method or 'quantization_config'}): give the model before that")
    if kind == "gemma3":
        kind = "gemma3_text"
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"model_type is {kind}, not one of {', '.join(FAMILIES)}")
    return FAMILIES[kind].read(config)


def stops_of(config: Mapping[str, Any], vocab_size: int) -> frozenset[int]:
    """Tokens that end an answer: one id or several in config.json or generation_config.json; an id that no token has is
    none."""
    given = config.get("eos_token_id")
    ids = given if isinstance(given, list) else [given]
    return frozenset(i for i in ids if isinstance(i, int) and not isinstance(i, bool) and 0 <= i < vocab_size)


def write_config(
    config: GPTConfig, end_of_text: int, stops: Iterable[int] = (), dtype: str = "float32"
) -> dict[str, Any]:
    """config.json as transformers reads it, in its dialects before and since version 5.

    What a model was read from stays as it was; its end-of-text is the one that training put.
    """
    if config.family == "gpt2":
        return {**hf_config(config, end_of_text, stops), "dtype": dtype}
    source: dict[str, Any] = json.loads(config.source)
    ends = [end_of_text, *sorted(set(stops) - {end_of_text})]
    return {
        **source,
        **_both_dialects(source),
        "architectures": [family_of(config).architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_weights,
        "eos_token_id": ends if len(ends) > 1 else end_of_text,
        "dtype": dtype,
        "torch_dtype": dtype,
    }


def _both_dialects(source: Mapping[str, Any]) -> dict[str, Any]:
    """Rotation in the keys of transformers 4 and 5 alike: either reads its own in silence, and else its defaults."""
    new = source.get("rope_parameters")
    neox = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}  # as GPT-NeoX calls them
    is_neox = source.get("model_type") == "gpt_neox"
    if new is None:
        part = source.get("partial_rotary_factor", source.get("rotary_pct"))
        theta = source.get("rope_theta", source.get("rotary_emb_base"))
        scaling = dict(source.get("rope_scaling") or {})
        scaling["rope_type"] = scaling.pop("type", None) or scaling.get("rope_type") or "default"
        plain = {"rope_type": "default"}
        given = {key: value for key, value in (("rope_theta", theta), ("partial_rotary_factor", part)) if value}
        if source.get("model_type") in ("gemma3_text", "olmo3"):
            local = source.get("rope_local_base_freq", theta if source["model_type"] == "olmo3" else None)
            return {
                "rope_parameters": {
                    "full_attention": {**scaling, **given},
                    "sliding_attention": {**plain, **({"rope_theta": local} if local else {})},
                }
            }
        return {"rope_parameters": {**scaling, **given}}
    full = new.get("full_attention", new)
    scaling = {key: value for key, value in full.items() if key not in ("rope_theta", "partial_rotary_factor")}
    stretched = scaling.get("rope_type", "default") != "default"
    found: dict[str, Any] = {"rope_scaling": _older(source, scaling) if stretched else None}
    if scaling.get("rope_type") == "longrope" and "original_max_position_embeddings" in scaling:
        found["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    for key in ("rope_theta", "partial_rotary_factor"):
        if full.get(key) is not None:
            found[neox[key] if is_neox else key] = full[key]
    if source.get("model_type") == "gemma3_text" and "sliding_attention" in new:
        found["rope_local_base_freq"] = new["sliding_attention"].get("rope_theta", 1e4)
    return found


def _older(source: Mapping[str, Any], scaling: Mapping[str, Any]) -> dict[str, Any]:
    """rope_scaling as transformers 4 takes it; two of its families take these keys and no others."""
    kind = source.get("model_type")
    if kind == "olmo2" and scaling["rope_type"] == "linear":
        return {"type": "linear", "factor": float(scaling["factor"])}
    if kind == "phi3" and scaling["rope_type"] == "longrope" and scaling.get("attention_factor") is None:
        return {"type": "longrope", **{key: scaling[key] for key in ("short_factor", "long_factor")}}
    return dict(scaling)
