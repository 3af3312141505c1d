"""Several models on one base: its weights are read once and lie in memory once.

A model that is alone has its adapter merged into its weights, which costs nothing at each token. Of several, each keeps
its adapter beside the weights that they share.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ift.artifacts.weights import Folder, build_model, with_adapter
from ift.model.config import GPTConfig

if TYPE_CHECKING:
    from ift.model.gpt import GPT


class Bases:
    """The bases that have been read so far, by the folders of their weights. Models are for answering, not training."""

    def __init__(self) -> None:
        self._read: dict[tuple[Path, int, bool, bool], GPT] = {}

    def model(self, config: GPTConfig, folder: Folder) -> GPT:
        """As `build_model`: the same answers, with weights that other models here may have too."""
        four_bits = folder.adapter is not None and folder.adapter.low_rank.four_bits
        key = (folder.path.resolve(), config.context_length, config.tie_weights, four_bits)
        if key not in self._read:
            self._read[key] = build_model(config, replace(folder, adapter=None), four_bits=four_bits)
        model = _with_the_same_weights(self._read[key])
        model.config, model.stops = config, folder.stops
        return with_adapter(model, folder) if folder.adapter else model


def _with_the_same_weights(model: GPT) -> GPT:
    """Modules of its own, so that adapters can be put into it, on the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo=shared)
