"""A GGUF file of any family: GPT-2's is written here, that of any other by llama.cpp's own converter."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from ift.errors import one_line
from ift.export import gguf_file, llama_cpp
from ift.export.hugging_face import write_hugging_face
from ift.export.source import RunModel
from ift.model.config import GPTConfig
from ift.run import write_json


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
        _say_as_published(Path(folder), source.config)
        about = {"general.name": one_line(source.name, 100), "general.description": gguf_file.description(source)}
        llama_cpp.convert(converter, Path(folder), path, dtype, about)


def beyond_windows(source: RunModel) -> list[str]:
    """A line for a model with windows that llama.cpp does not have: it sees all there, and answers otherwise."""
    config = source.config
    windows = [window for window in config.windows if window is not None and window < config.context_length]
    if not windows or config.family in WINDOWED:
        return []
    return [f"          llama.cpp has no windows for {config.family}: beyond {min(windows):,} tokens answers may part"]


WINDOWED = ("gemma2", "gemma3_text", "phi3", "olmo3")  # families whose windows llama.cpp computes
DROPPED = ("gpt_neox", "qwen2", "olmo2", "granite")


def _say_as_published(folder: Path, config: GPTConfig) -> None:
    """Let the converter read config.json and tokenizer.json as they are.

    It asks transformers for both, whose version 5 leaves out keys that the converter needs (rotary_pct), and takes
    another tokenizer than the folder's for some families (DROPPED). A family that transformers does not know it reads
    itself; with a stretched rotation transformers fails on that, so those stay.
    """
    if config.family not in DROPPED or any(rope.kind != "default" for rope in config.ropes):
        return
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.json", {**said, "model_type": f"{config.family} as it is written"})
