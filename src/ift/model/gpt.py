"""GPT-2 on one page (Radford et al. 2019): token ids in, logits out. It knows no text, no loss and no optimizer.

B batch, T time, C channels (n_embd), H heads, D channels of a head, V vocabulary, N capacity of the cache.
Module names are those of the published checkpoints, so a tensor's name is the same here and there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ift.model.config import GPTConfig


class KVCache:
    """Keys and values of rows with different lengths: row b holds positions 0 .. lengths[b] - 1, flush left.

    The first forward (prefill) takes right-padded prompts; what it writes past a row's length is never read, because
    each later token is written at its row's own length and attends to no position beyond it.
    """

    def __init__(self, lengths: Tensor, capacity: int):
        self.lengths = lengths  # (B,) tokens of each row after prefill
        self.capacity = capacity
        self.filled = False
        self.layers: list[tuple[Tensor, Tensor]] = []  # (B, H, N, D) keys and values

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Store new keys and values (B, H, T, D); return all that may be seen, and the mask (None: causal)."""
        if not self.filled:
            B, H, T, D = k.shape
            store = (k.new_zeros(B, H, self.capacity, D), v.new_zeros(B, H, self.capacity, D))
            store[0][:, :, :T], store[1][:, :, :T] = k, v
            self.layers.append(store)
            return k, v, None
        keys, values = self.layers[layer]
        row = torch.arange(len(self.lengths), device=k.device)
        keys[row, :, self.lengths] = k[:, :, 0]
        values[row, :, self.lengths] = v[:, :, 0]
        seen = int(self.lengths.max()) + 1
        mask = torch.arange(seen, device=k.device) <= self.lengths[:, None]  # (B, seen)
        return keys[:, :, :seen], values[:, :, :seen], mask[:, None, None, :]

    def select(self, rows: Tensor) -> None:
        """Keep only these rows, in this order."""
        self.lengths = self.lengths[rows]
        self.layers = [(k[rows], v[rows]) for k, v in self.layers]


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.n_head, self.dropout, self.layer = config.n_head, config.dropout, layer
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, cache: KVCache | None) -> Tensor:
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, -1).transpose(1, 2) for part in self.c_attn(x).split(C, dim=2))
        mask = None
        if cache is not None:
            k, v, mask = cache.update(self.layer, k, v)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, dropout_p=dropout)
        y = self.c_proj(y.transpose(1, 2).reshape(B, T, C))  # (B, H, T, D) -> (B, T, C)
        return F.dropout(y, self.dropout, self.training)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return F.dropout(x, self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cache: KVCache | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, config: GPTConfig):
        """Fresh weights: normal(0, 0.02), residual projections smaller by sqrt(2 * n_layer)."""
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context_length, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                scale = math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 1
                nn.init.normal_(parameter, std=0.02 / scale)
        if config.tie_weights:
            self.lm_head.weight = self.wte.weight

    def hidden(self, input_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T) token ids -> (B, T, C) states after the last norm. With a filled cache T is 1."""
        if cache is not None and cache.filled:
            positions = cache.lengths[:, None]
        else:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.wte(input_ids) + self.wpe(positions)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.h:
            x = block(x, cache)
        if cache is not None:
            if cache.filled:
                cache.lengths = cache.lengths + 1
            cache.filled = True
        hidden: Tensor = self.ln_f(x)
        return hidden

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, V) logits."""
        logits: Tensor = self.lm_head(self.hidden(input_ids))
        return logits
