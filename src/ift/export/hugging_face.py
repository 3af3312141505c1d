"""A folder that transformers, vLLM, HELM and the Hub load: the class of its family, tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ift.artifacts.tensors import write_tensors
from ift.errors import ConfigError
from ift.export.source import RunModel
from ift.model.families import write_config
from ift.run import write_json, write_text
from ift.text.chat_template_export import export_chat_template
from ift.text.encoding import turn_end

# dtype -> its name in a safetensors header, and in config.json
DTYPES = {"fp32": ("F32", "float32"), "bf16": ("BF16", "bfloat16"), "fp16": ("F16", "float16")}


def write_hugging_face(
    source: RunModel, folder: Path, dtype: str, advance: Callable[[int], None], *, plain: bool = False
) -> None:
    """config.json, generation_config.json, model.safetensors, the tokenizer's files and chat_template.jinja.

    plain: the chat template without the tag that transformers added to Jinja.
    """
    write_json(folder / "config.json", _config_json(source, dtype))
    write_beside_weights(source, folder, plain=plain)
    write_safetensors(source, folder / "model.safetensors", dtype, advance)


def _config_json(source: RunModel, dtype: str) -> dict[str, Any]:
    ends = source.stops | {source.tokenizer.end_of_text}
    return write_config(source.config, turn_end(source.template, source.tokenizer), ends, DTYPES[dtype][1])


def write_beside_weights(source: RunModel, folder: Path, *, plain: bool = False) -> None:
    """generation_config.json, the tokenizer's files and chat_template.jinja."""
    tokenizer, stored = source.tokenizer, _config_json(source, "fp32")
    end = tokenizer.end_of_text
    known = {key: stored.get(key) for key in ("bos_token_id", "pad_token_id")}
    ids = {key: end if value is None else value for key, value in known.items()}
    generation = {**ids, "eos_token_id": stored["eos_token_id"], "do_sample": False}
    write_json(folder / "generation_config.json", generation)
    # in both places: programs read the one or the other
    chat_template = export_chat_template(source.template, end=tokenizer.end_text, names=tokenizer.names, plain=plain)
    tokenizer.save(folder, context_length=source.config.context_length, chat_template=chat_template)
    write_text(folder / "chat_template.jinja", chat_template)


def write_safetensors(source: RunModel, path: Path, dtype: str, advance: Callable[[int], None]) -> None:
    """One tensor after the other, so that a model larger than the memory can be written."""
    tensors = {source.family.stored_name(name): (DTYPES[dtype][0], shape) for name, shape in source.shapes.items()}

    def values() -> Iterator[NDArray[Any]]:
        for name, value in source.tensors():
            yield narrowed(name, value, dtype)
            advance(value.nbytes)

    write_tensors(path, tensors, values(), {"format": "pt"})


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
