"""A folder that transformers, vLLM, HELM and the Hub load: GPT2LMHeadModel, its tokenizer and its chat template."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ift.artifacts.weights import hf_config
from ift.errors import ConfigError
from ift.export.source import Source
from ift.run import write_json, write_text
from ift.text.chat_template_export import export_chat_template

# dtype -> its name in a safetensors header, and in config.json
DTYPES = {"fp32": ("F32", "float32"), "bf16": ("BF16", "bfloat16"), "fp16": ("F16", "float16")}


def write_hugging_face(source: Source, folder: Path, dtype: str, advance: Callable[[int], None]) -> None:
    """config.json, generation_config.json, model.safetensors, the tokenizer's files and chat_template.jinja."""
    end, config = source.tokenizer.end_of_text, source.config
    write_json(folder / "config.json", {**hf_config(config, end), "dtype": DTYPES[dtype][1]})
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "do_sample": False},
    )
    source.tokenizer.save(folder, context_length=config.context_length)
    write_text(folder / "chat_template.jinja", export_chat_template(source.template))
    write_safetensors(source, folder / "model.safetensors", dtype, advance)


def write_safetensors(source: Source, path: Path, dtype: str, advance: Callable[[int], None]) -> None:
    """One tensor after the other, so that a model larger than the memory can be written.

    The format: the length of the header as uint64, the header as JSON padded with spaces to a multiple of 8, the data.
    """
    stored, _ = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at, width = 0, 4 if dtype == "fp32" else 2
    for name, shape in source.shapes.items():
        size = int(np.prod(shape)) * width
        header[_their(name)] = {"dtype": stored, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, value in source.tensors():
            file.write(narrowed(name, value, dtype).tobytes())
            advance(value.nbytes)


def _their(name: str) -> str:
    return name if name == "lm_head.weight" else f"transformer.{name}"


def narrowed(name: str, value: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """The values in little-endian fp32 or fp16, or the bits of bf16, rounded to nearest, ties to even.

    Raises ConfigError where a value is beyond what the type can hold: it would become infinite.
    """
    if dtype == "fp32":
        return value.astype("<f4", copy=False)
    if dtype == "fp16":
        with np.errstate(over="ignore"):
            half = value.astype("<f2")
        if not np.isfinite(half).all():
            raise ConfigError(f"--dtype fp16: {name} holds {np.abs(value).max():.3g}, beyond fp16 (take bf16 or fp32)")
        return half
    bits = value.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
