"""An adapter by itself, as PEFT, transformers and vLLM load it: on the base that its config names."""

from __future__ import annotations

import shutil
from pathlib import Path

from ift.artifacts.adapter_folder import CONFIG, WEIGHTS
from ift.errors import ConfigError
from ift.export.hugging_face import write_beside_weights
from ift.export.source import RunModel


def refuse_no_adapter(source: RunModel, prove: int) -> None:
    """Raises ConfigError for a run all of whose weights were trained, and where another program is to be asked."""
    if source.folder.adapter is None:
        raise ConfigError(f"--to peft: {source.run.path} has no adapter, all weights were trained (take --to hf)")
    if prove:
        raise ConfigError("--prove: asks programs that load whole models (take --to hf --prove)")


def write_peft(source: RunModel, folder: Path) -> None:
    """The adapter as the run has it, byte for byte, with the tokenizer's files and the chat template."""
    for name in (CONFIG, WEIGHTS):
        shutil.copyfile(source.run.model / name, folder / name)
    write_beside_weights(source, folder)
