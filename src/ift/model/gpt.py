"""GPT-2 on one page (Radford et al. 2019): token ids in, logits out. It knows no text, no loss and no optimizer.

B batch, T time, C channels (n_embd), V vocabulary; "..." is B, T for padded rows and N for flat ones (layouts.py).
Module names are those of the published checkpoints, so a tensor's name is the same here and there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ift.model.attention import Scores, split_heads
from ift.model.config import GPTConfig
from ift.model.head import head_loss, head_losses
from ift.model.layouts import PADDED, Layout
from ift.model.linear import Linear


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.heads, self.scores = (config.n_head, config.n_kv_head), Scores(config.score_scale(layer))
        self.dropout, self.layer = config.dropout, layer
        self.c_attn = Linear(config.n_embd, (config.n_head + 2 * config.n_kv_head) * config.head_dim)
        self.c_proj = Linear(config.n_head * config.head_dim, config.n_embd)

    def forward(self, x: Tensor, layout: Layout, places: Tensor | None = None) -> Tensor:
        q, k, v = split_heads(self.c_attn(x), *self.heads)  # (..., 3C) -> (..., H, D) each
        dropout = self.dropout if self.training else 0.0
        y = layout.attend(self.layer, q, k, v, self.scores, dropout)  # (..., C)
        return F.dropout(self.c_proj(_only(y, places)), self.dropout, self.training)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.dropout, self.activation = config.dropout, ACTIVATIONS[config.activation]
        self.c_fc = Linear(config.n_embd, config.mlp_dim)
        self.c_proj = Linear(config.mlp_dim, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_proj(self.activation(self.c_fc(x)))
        return F.dropout(x, self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.norm_eps)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, layout: Layout, places: Tensor | None = None) -> Tensor:
        x = _only(x, places) + self.attn(self.ln_1(x), layout, places)
        return x + self.mlp(self.ln_2(x))


def _only(x: Tensor, places: Tensor | None) -> Tensor:
    return x if places is None else x.index_select(0, places)


RunBlock = Callable[[Block, Tensor, Layout, Tensor | None], Tensor]


def plainly(block: Block, x: Tensor, layout: Layout, places: Tensor | None) -> Tensor:
    y: Tensor = block(x, layout, places)
    return y


class GPT(nn.Module):
    def __init__(self, config: GPTConfig):
        """Fresh weights: normal(0, 0.02), residual projections smaller by sqrt(2 * n_layer)."""
        super().__init__()
        self.config = config
        self.stops: frozenset[int] = frozenset()  # tokens that end an answer besides the tokenizer's end-of-text
        self.run_block: RunBlock = plainly  # or as training/blocks.py has it
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context_length, config.n_embd)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.norm_eps)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                scale = math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 1
                nn.init.normal_(parameter, std=0.02 / scale)
        if config.tie_weights:
            self.lm_head.weight = self.wte.weight

    # -- what other floors ask a model, whatever its weights are called ------------------------------------------------

    def hidden(
        self,
        input_ids: Tensor,
        layout: Layout = PADDED,
        places: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """(...) token ids -> (..., C) states after the last norm.

        places: (W,) indices of the flat tokens whose states are returned, (W, C); in the last block the others only
        supply keys and values.
        noise: added to the embeddings of the tokens, (..., C).
        """
        # the gradient of tied weights is the head's, all of the vocabulary; that of the few tokens here is added to it
        x = F.embedding(input_ids, self.wte.weight, sparse=self.config.tie_weights)
        x = x if noise is None else x + noise
        x = F.dropout(x + self.wpe(layout.positions(input_ids)), self.config.dropout, self.training)
        for layer, block in enumerate(self.h, start=1):
            x = self.run_block(block, x, layout, places if layer == len(self.h) else None)  # type: ignore[arg-type]
        hidden: Tensor = self.ln_f(x)
        return hidden

    def logits(self, hidden: Tensor, *, every_id: bool = False) -> Tensor:
        """(..., C) states -> logits of the tokens, in the type that products are computed in.

        (..., V), or fewer where the vocabulary has room for more than there are tokens (config.tokens): what is no
        token can then be neither chosen nor counted. every_id: all V, as a loss has them.
        """
        logits: Tensor = self.lm_head(hidden)
        return logits if every_id else logits[..., : self.config.tokens]

    def loss(self, hidden: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """(S, C) states and their (S,) targets -> summed cross-entropy (fp32), how many targets are likeliest."""
        return head_loss(hidden, targets, self.lm_head, label_smoothing)

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(S, C) states and their (S,) targets -> (S,) cross-entropy of each (fp32)."""
        return head_losses(hidden, targets, self.lm_head)

    @property
    def device(self) -> torch.device:
        return self.wte.weight.device

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type that matrix products, keys and values are in."""
        return self.lm_head.compute_dtype

    def forward(self, input_ids: Tensor) -> Tensor:
        """(B, T) token ids -> (B, T, V) logits of the tokens."""
        return self.logits(self.hidden(input_ids))
