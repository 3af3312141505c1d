"""A GGUF file of any family: GPT-2's is written here, that of any other by llama.cpp's own converter."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from ift.errors import one_line
from ift.export import gguf_file, llama_cpp
from ift.export.hugging_face import write_hugging_face
from ift.export.source import RunModel


def is_own(source: RunModel) -> bool:
    """Whether the file is written here, and nothing of llama.cpp is needed."""
    return source.config.family == "gpt2"


def find_converter(source: RunModel) -> None:
    """Raises MachineError where the family needs the converter and it is not found."""
    if not is_own(source):
        llama_cpp.needed_converter(source.config.family)


def write_any_gguf(source: RunModel, path: Path, dtype: str, advance: Callable[[int], None]) -> None:
    """Raises ConfigError where llama.cpp cannot compute the model or knows not its tokenizer, MachineError where its
    converter is missing or fails."""
    if is_own(source):
        gguf_file.write_gguf(source, path, dtype, advance)
        return
    converter = llama_cpp.needed_converter(source.config.family)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        write_hugging_face(source, Path(folder), "fp32", advance, plain=True)
        about = {"general.name": one_line(source.name, 100), "general.description": gguf_file.description(source)}
        llama_cpp.convert(converter, Path(folder), path, dtype, about)
