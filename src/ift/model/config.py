"""The sizes of a GPT. Needs no torch, so they can be checked before it is imported."""

from __future__ import annotations

from dataclasses import dataclass

from ift.errors import ConfigError


@dataclass(frozen=True)
class GPTConfig:
    vocab_size: int
    context_length: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    tie_weights: bool = True  # one matrix for the token embedding and the head, as published

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
