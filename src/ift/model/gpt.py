"""A decoder on one page: token ids in, logits out. It knows no text, no loss and no optimizer.

With nothing but sizes it is GPT-2 (Radford et al. 2019), and its modules have the names of that checkpoint; where other
families differ, `GPTConfig` says so, and families/ knows what their tensors are called.

B batch, T time, C channels (n_embd), H heads of queries, K of keys and values, D channels of a head, V vocabulary;
"..." is B, T for padded rows and N for flat ones (layouts.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ift.model.attention import Scores, capped, split_heads
from ift.model.config import GPTConfig
from ift.model.gate import gated
from ift.model.head import head_loss, head_losses
from ift.model.layouts import PADDED, Layout
from ift.model.linear import Linear
from ift.model.norm import norm
from ift.model.rotation import Rotary
from ift.model.token_rows import TokenRows

if TYPE_CHECKING:
    from ift.model.low_rank import LowRank


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int, rotary: Rotary | None):
        super().__init__()
        D, self.heads = config.head_dim, (config.n_head, config.n_kv_head)
        self.scores = Scores(config.scale_of_scores(layer), config.window(layer), config.score_cap)
        self.dropout, self.layer, self.rotary = config.dropout, layer, rotary
        self.c_attn = Linear(config.n_embd, (config.n_head + 2 * config.n_kv_head) * D, bias="qkv" in config.biases)
        self.c_proj = Linear(config.n_head * D, config.n_embd, bias="attention" in config.biases)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm, self.k_norm = (norm(config, D * (1 if config.qk_norm == "head" else n)) for n in self.heads)

    def forward(self, x: Tensor, layout: Layout, places: Tensor | None = None) -> Tensor:
        q, k, v = split_heads(self.c_attn(x), *self.heads)  # (..., H, D), and (..., K, D) twice
        if self.qk_norm == "head":
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        elif self.qk_norm:
            q, k = (f(y.flatten(-2)).view(y.shape).to(v.dtype) for f, y in ((self.q_norm, q), (self.k_norm, k)))
        dropout = self.dropout if self.training else 0.0
        y = layout.attend(self.layer, q, k, v, self.scores, dropout, self.rotary)  # (..., H * D)
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
        self.dropout, self.activation, self.gated = config.dropout, ACTIVATIONS[config.activation], config.gated
        bias = "mlp" in config.biases
        self.c_fc = Linear(config.n_embd, config.mlp_dim * (2 if config.gated else 1), bias=bias)
        self.c_proj = Linear(config.mlp_dim, config.n_embd, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        x = gated(x, self.activation) if self.gated else self.activation(x)
        return F.dropout(self.c_proj(x), self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int, rotary: Rotary | None):
        super().__init__()
        before, after, self.parallel = config.norms != "after", config.norms != "before", config.parallel
        self.scale = config.residual_scale
        self.ln_1 = norm(config, config.n_embd) if before else nn.Identity()
        self.attn = Attention(config, layer, rotary)
        self.ln_1_out = norm(config, config.n_embd) if after else nn.Identity()
        self.ln_2 = norm(config, config.n_embd) if before and config.parallel != "one norm" else nn.Identity()
        self.mlp = MLP(config)
        self.ln_2_out = norm(config, config.n_embd) if after else nn.Identity()

    def forward(self, x: Tensor, layout: Layout, places: Tensor | None = None) -> Tensor:
        normed = self.ln_1(x)
        x, attended = _only(x, places), self._scaled(self.ln_1_out(self.attn(normed, layout, places)))
        if self.parallel:
            normed = _only(normed, places) if self.parallel == "one norm" else self.ln_2(x)
            x = x + attended
        else:
            x = x + attended
            normed = self.ln_2(x)
        return x + self._scaled(self.ln_2_out(self.mlp(normed)))

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scale == 1 else x * self.scale


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
        self.stored_dtype = "F32"  # what a file of its weights has them in, as safetensors calls it
        self.low_rank: LowRank | None = None  # its adapters, where it has some (adapters.py)
        self.run_block: RunBlock = plainly  # or as training/blocks.py has it
        rotaries = {rope: Rotary(rope) for rope in config.ropes}
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        if config.learned_positions:
            self.wpe = nn.Embedding(config.context_length, config.n_embd)
        turned_by = (rotaries[rope] if rope else None for rope in map(config.rope, range(config.n_layer)))
        self.h = nn.ModuleList(Block(config, layer, rotary) for layer, rotary in enumerate(turned_by))
        self.ln_f = norm(config, config.n_embd)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias="head" in config.biases)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                scale = math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 1
                nn.init.normal_(parameter, std=0.02 / scale)
        self.tie()
        self.own_rows: TokenRows | None = None  # of tokens that are trained while the others are frozen

    def tie(self) -> None:
        """One parameter for the embedding and the head, where the model has one."""
        if self.config.tie_weights:
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
        x = x if self.own_rows is None else self.own_rows.embedded(input_ids, x)
        x = x if self.config.embedding_scale == 1 else x * self.config.embedding_scale
        x = x if noise is None else x + noise
        x = x + self.wpe(layout.positions(input_ids)) if self.config.learned_positions else x
        x = F.dropout(x, self.config.dropout, self.training)
        for layer, block in enumerate(self.h, start=1):
            x = self.run_block(block, x, layout, places if layer == len(self.h) else None)  # type: ignore[arg-type]
        hidden: Tensor = self.ln_f(x)
        return hidden if self.config.logit_scale == 1 else hidden * self.config.logit_scale

    def logits(self, hidden: Tensor, *, every_id: bool = False) -> Tensor:
        """(..., C) states of `hidden` -> logits of the tokens, in the type that products are computed in.

        (..., V), or fewer where the vocabulary has room for more than there are tokens (config.tokens): what is no
        token can then be neither chosen nor counted. every_id: all V, as a loss has them.
        """
        logits = self.lm_head(hidden)
        if self.own_rows is not None:
            logits = self.own_rows.put_into(logits, hidden, self.lm_head.bias)
        logits = capped(logits, self.config.logit_cap)
        return logits if every_id else logits[..., : self.config.tokens]

    def loss(self, hidden: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """(S, C) states and their (S,) targets -> summed cross-entropy (fp32), how many targets are likeliest."""
        own = None if self.own_rows is None else self.own_rows.of_head
        return head_loss(hidden, targets, self.lm_head, label_smoothing, self.config.logit_cap, own)

    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """(S, C) states and their (S,) targets -> (S,) cross-entropy of each (fp32)."""
        own = None if self.own_rows is None else self.own_rows.of_head
        return head_losses(hidden, targets, self.lm_head, self.config.logit_cap, own)

    def train_rows_of(self, tokens: Sequence[int], rows: Mapping[str, Tensor] | None = None) -> None:
        """Give these tokens rows of their own, which are trained; they begin as these `token_rows`, or the model's."""
        self.own_rows = TokenRows(tokens, **(rows or self.token_rows))

    @property
    def token_rows(self) -> dict[str, Tensor]:
        """(V, C) of the embedding, and of the head where that has rows of its own."""
        head = {} if self.config.tie_weights else {"head": self.lm_head.weight}
        return {"embedding": self.wte.weight, **head}

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
