"""A GGUF file: GPT-2 as llama.cpp and Ollama read it, with its vocabulary and chat template. The one door to gguf.

The names and layouts are llama.cpp's for the architecture "gpt2": matrices are (out, in), the head is left out where it
is the embedding, vectors and positions stay fp32 whatever the type of the matrices.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ift.errors import ConfigError, missing_extra, one_line
from ift.export.source import RunModel, joint
from ift.model.families.gpt2 import GGUF, MATRICES, differs_from_published
from ift.text.chat_template_export import export_chat_template
from ift.text.encoding import turn_end

# dtype -> the names that gguf has for it: of a tensor's type, and of a file mostly of that type
DTYPES = {
    "fp32": ("F32", "ALL_F32"),
    "bf16": ("BF16", "MOSTLY_BF16"),
    "fp16": ("F16", "MOSTLY_F16"),
    "q8_0": ("Q8_0", "MOSTLY_Q8_0"),
}
BLOCK = 32  # values that share a scale in q8_0


def gguf_package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise missing_extra("gguf", "export") from error
    return gguf


def write_gguf(source: RunModel, path: Path, dtype: str, advance: Callable[[int], None]) -> None:
    """Raises ConfigError where the sizes of the model do not fit q8_0, or a value does not fit fp16."""
    gguf, config = gguf_package(), source.config
    if other := differs_from_published(config):
        raise ConfigError(f"--to gguf: llama.cpp computes GPT-2 as published, this model has {other} (take --to hf)")
    if not source.tokenizer.cuts_as_gpt2:
        raise ConfigError("--to gguf: llama.cpp cuts text into words as GPT-2 does, this tokenizer not (take --to hf)")
    if dtype == "q8_0" and (config.n_embd % BLOCK or config.mlp_dim % BLOCK):
        raise ConfigError(f"--dtype q8_0: n_embd {config.n_embd} is no multiple of {BLOCK} (take fp16 or bf16)")
    logging.getLogger("gguf").setLevel(logging.WARNING)
    writer = gguf.GGUFWriter(path, "gpt2")
    try:
        _add_metadata(writer, gguf, source, dtype)
        kinds = {name: _kind(gguf, name, shape, dtype) for name, shape in source.shapes.items()}
        for name, shape in source.shapes.items():
            size = int(np.prod(gguf.quant_shape_to_byte_shape(_layout(name, shape), kinds[name]), dtype=np.int64))
            writer.add_tensor_info(their_name(name), _layout(name, shape), np.dtype(np.float32), size, kinds[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, value in source.tensors():
            writer.write_tensor_data(_stored(gguf, name, value, kinds[name]))
            advance(value.nbytes)
    finally:
        writer.close()


def _add_metadata(writer: Any, gguf: Any, source: RunModel, dtype: str) -> None:
    config, tokenizer = source.config, source.tokenizer
    writer.add_name(one_line(source.name, 100))
    writer.add_description(description(source))
    writer.add_string("ift.prompt.name", source.template.name)
    writer.add_string("ift.prompt.hash", source.template.hash)
    if (between := joint(source.template)) is not None:
        writer.add_string("ift.prompt.before_input", between)  # where a message has one text
    writer.add_file_type(getattr(gguf.LlamaFileType, DTYPES[dtype][1]))
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.mlp_dim)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(1e-5)
    words, merges = tokenizer.vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    types = [gguf.TokenType.NORMAL] * len(words)
    for id in tokenizer.special:
        types[id] = gguf.TokenType.CONTROL
    writer.add_token_types(types)
    if merges:
        writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.end_of_text)
    writer.add_eos_token_id(tokenizer.end_of_text)
    learnt = turn_end(source.template, tokenizer)
    others = [learnt] if learnt != tokenizer.end_of_text else sorted(source.stops)
    for id in others[:1]:  # the format has a place for one more
        writer.add_eot_token_id(id)
    writer.add_add_bos_token(False)  # training begins with the prompt
    writer.add_add_space_prefix(False)
    writer.add_chat_template(export_chat_template(source.template, end=tokenizer.end_text, plain=True))


def description(source: RunModel) -> str:
    """How the model is asked, for who has nothing but the file."""
    about = f"Fine-tuned on instructions by ift, prompt {one_line(source.template.name, 60)}"
    between = joint(source.template)
    if source.rows_with("input") == 0 or between is None:
        return f"{about}."
    return f"{about}. An input follows its instruction in the same message after {json.dumps(between)}."


def types_of(path: Path) -> str:
    """How many tensors of a file are of which type: 25 q4_k, 98 f32"""
    counts = Counter(tensor.tensor_type.name.lower() for tensor in gguf_package().GGUFReader(path).tensors)
    return ", ".join(f"{number} {kind}" for kind, number in counts.most_common())


def their_name(name: str) -> str:
    """h.3.attn.c_attn.weight -> blk.3.attn_qkv.weight"""
    module, _, kind = name.rpartition(".")
    if module.startswith("h."):
        _, layer, module = module.split(".", 2)
        return f"blk.{layer}.{GGUF[module]}.{kind}"
    return f"{GGUF[module]}.{kind}"


def _is_transposed(name: str) -> bool:
    return name.endswith(tuple(f"{matrix}.weight" for matrix in MATRICES))


def _layout(name: str, shape: list[int]) -> list[int]:
    return shape[::-1] if _is_transposed(name) else shape


def _kind(gguf: Any, name: str, shape: list[int], dtype: str) -> Any:
    small = len(shape) == 1 or name == "wpe.weight"
    return getattr(gguf.GGMLQuantizationType, "F32" if small else DTYPES[dtype][0])


def _stored(gguf: Any, name: str, value: NDArray[np.float32], kind: Any) -> NDArray[Any]:
    value = np.ascontiguousarray(value.T) if _is_transposed(name) else value
    with np.errstate(over="ignore"):
        stored: NDArray[Any] = gguf.quants.quantize(value, kind)
    if kind == gguf.GGMLQuantizationType.F16 and not np.isfinite(stored).all():
        raise ConfigError(f"--dtype fp16: {name} holds {np.abs(value).max():.3g}, beyond fp16 (take bf16 or fp32)")
    return stored
