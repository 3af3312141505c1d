"""Rows of the embedding and the head of some tokens, trained while all other rows are frozen.

An adapter of the matrices of blocks cannot teach a model to write a token whose row pretraining left as it began. These
few rows stand in place of the model's own, which stay as they are; PEFT calls them trainable tokens. A head that is
the embedding has the same rows, and stays the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ift.model.head import OwnRows


class TokenRows(nn.Module):
    """R tokens, C channels, V vocabulary. They begin as the rows that they stand for."""

    def __init__(self, ids: Sequence[int], embedding: Tensor, head: Tensor | None = None):
        """embedding, head: (V, C) of the model; no head where it is the embedding."""
        super().__init__()
        device = embedding.device
        self.register_buffer("ids", torch.tensor(sorted(set(ids)), device=device), persistent=False)
        places = torch.full((len(embedding),), -1, device=device)
        places[self.ids] = torch.arange(len(self.ids), device=device)
        self.register_buffer("places", places, persistent=False)  # (V,) which of the R a token is; -1: none
        self.embedding = nn.Parameter(embedding.detach()[self.ids].float())
        self.head = None if head is None else nn.Parameter(head.detach()[self.ids].float())

    ids: Tensor
    places: Tensor

    @property
    def of_head(self) -> OwnRows:
        return OwnRows(self.ids, self.embedding if self.head is None else self.head)

    @torch.no_grad()
    def write_into(self, embedding: Tensor, head: Tensor | None = None) -> None:
        """Put the rows into the (V, C) matrices, which then need them no more."""
        embedding[self.ids] = self.embedding.to(embedding.dtype)
        if head is not None and self.head is not None:
            head[self.ids] = self.head.to(head.dtype)

    def embedded(self, input_ids: Tensor, x: Tensor) -> Tensor:
        """(...) ids and their (..., C) embeddings -> the same with the rows that are here."""
        places = self.places[input_ids]
        own = F.embedding(places.clamp(min=0), self.embedding).to(x.dtype)
        return torch.where((places >= 0)[..., None], own, x)

    def put_into(self, logits: Tensor, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """(..., V) logits, not capped yet, and their (..., C) states -> the same with the logits of these tokens."""
        ids, rows = self.of_head
        own = F.linear(hidden.to(logits.dtype), rows.to(logits.dtype))
        own = own if bias is None else own + bias[ids].to(own.dtype)
        if torch.is_grad_enabled():
            return logits.index_copy(-1, ids, own)
        return logits.index_copy_(-1, ids, own)  # a step of an answer spares a copy of the vocabulary
