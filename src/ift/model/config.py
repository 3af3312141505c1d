"""The sizes of a GPT, and where its arithmetic is not GPT-2's own. Needs no torch: checked before it is imported."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ift.errors import ConfigError

ACTIVATIONS = {  # as config.json names them -> ours
    "gelu_new": "gelu_tanh",  # GPT-2's own
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    context_length: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    tie_weights: bool = True  # one matrix for the token embedding and the head, as published
    n_inner: int | None = None  # width of a block's MLP; None: 4 * n_embd
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5
    scale_scores: bool = True  # by 1 / sqrt(head_dim)
    scale_by_layer: bool = False  # scores of layer i (from 1) divided by i too
    tokens: int | None = None  # ids below it are tokens, and only they are ever chosen; None: all of vocab_size

    def __post_init__(self) -> None:
        if self.n_embd % self.n_head:
            raise ConfigError(f"model.n_head={self.n_head}: does not divide model.n_embd={self.n_embd}")

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def n_kv_head(self) -> int:
        """Heads of keys and values: in a GPT-2 as many as of queries."""
        return self.n_head

    @property
    def mlp_dim(self) -> int:
        return self.n_inner or 4 * self.n_embd

    def score_scale(self, layer: int) -> float:
        """What products of queries and keys are multiplied by; layers are counted from 0."""
        scale = 1 / math.sqrt(self.head_dim) if self.scale_scores else 1.0
        return scale / (layer + 1) if self.scale_by_layer else scale
