"""Which tokenizer a name stands for: GPT-2's, a folder's, or the demo's own, made of the demo rows."""

from __future__ import annotations

from pathlib import Path

from ift.data.reading.rows import read_demo
from ift.errors import ConfigError
from ift.text.templates import Template
from ift.text.tokenizer_files import read_tokenizer
from ift.text.tokenizers import Tokenizer

DEMO_SIZE = 2048  # tokens of the demo vocabulary, end-of-text not counted


def load_tokenizer(name: str, template: Template) -> Tokenizer:
    """`gpt2`, `demo` (made of the demo rows in the template's words), or a folder with the files of a byte-level BPE.

    Raises ConfigError where it is none of these, MachineError and WeightsError where it cannot be had.
    """
    if name == "demo":
        texts = (piece.text for row in read_demo() for piece in template.pieces(row))
        return Tokenizer.train(texts, size=DEMO_SIZE, name="demo")
    if name == "gpt2":
        return Tokenizer.gpt2()
    if Path(name).is_dir():
        return read_tokenizer(Path(name))
    raise ConfigError(f"model.tokenizer={name}: must be gpt2, demo or a folder with a tokenizer.json")
