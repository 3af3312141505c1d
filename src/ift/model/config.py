"""The sizes of a decoder, and where its arithmetic is not GPT-2's. Needs no torch: checked before it is imported."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

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
class Rope:
    """How queries and keys turn with their positions (Su et al. 2021), and how that was stretched to longer contexts.

    channels  of a head turn, from the first on
    kind      default
              linear    all angles divided by `factor` (Chen et al. 2023)
              llama3    slow ones divided, those between `low` and `high` turns in `original` in part (Llama 3.1)
              yarn      likewise by `low` and `high` along a ramp over the channels (Peng et al. 2023, arXiv:2309.00071)
              longrope  divided channel by channel: by `short`, by `long` in rows of more than `original` tokens
                        (Ding et al. 2024, arXiv:2402.13753)
    original  the context before it was stretched
    rounded   yarn: the ends of its ramp are whole channels
    scale     cosine and sine are multiplied by it
    """

    theta: float
    channels: int
    kind: str = "default"
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    rounded: bool = True
    scale: float = 1.0
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


@dataclass(frozen=True)
class GPTConfig:
    """GPT-2's arithmetic where nothing else is said."""

    vocab_size: int
    context_length: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float = 0.0
    tie_weights: bool = True  # one matrix for the token embedding and the head
    n_inner: int | None = None  # width of a block's MLP; None: 4 * n_embd
    activation: str = "gelu_tanh"
    norm_eps: float = 1e-5
    scale_scores: bool = True  # by 1 / sqrt(head_dim)
    scale_by_layer: bool = False  # scores of layer i (from 1) divided by i too
    tokens: int | None = None  # ids below it are tokens, and only they are ever chosen; None: all of vocab_size

    kv_heads: int | None = None  # heads of keys and values; None: as many as of queries
    head_width: int | None = None  # channels of a head; None: n_embd / n_head
    biases: tuple[str, ...] = ("qkv", "attention", "mlp")  # products that add one; behind them "head" is another
    gated: bool = False  # the MLP multiplies the activation of one product with another (Shazeer 2020)
    norm: Literal["layer", "rms"] = "layer"
    norm_offset: float = 0.0  # added to the weights of norms
    norms: Literal["before", "after", "both"] = "before"  # of what goes into attention and MLP, of what comes out
    parallel: Literal["", "two norms", "one norm"] = ""  # the MLP reads what attention reads, not what it gives
    qk_norm: Literal["", "head", "all"] = ""  # queries and keys have a norm each: of every head, or of all heads as one
    score_scale: float | None = None  # instead of what scale_scores says
    score_cap: float | None = None  # scores x become cap * tanh(x / cap)
    logit_cap: float | None = None  # the logits likewise
    embedding_scale: float = 1.0  # embeddings are multiplied by it
    residual_scale: float = 1.0  # what attention and MLP give is multiplied by it
    logit_scale: float = 1.0  # the logits are multiplied by it
    learned_positions: bool = True
    ropes: tuple[Rope, ...] = ()
    rope_of: tuple[int | None, ...] = ()  # for each layer: which of them; None: it knows no positions
    windows: tuple[int | None, ...] = ()  # for each layer: a query sees so many positions, its own the last; None: all

    family: str = "gpt2"  # whose names and shapes the published weights have
    source: str = field(default="", compare=False, repr=False)  # the config.json that it was read from

    def __post_init__(self) -> None:
        if self.head_width is None and self.n_embd % self.n_head:
            raise ConfigError(f"model.n_head={self.n_head}: does not divide model.n_embd={self.n_embd}")
        if self.n_head % self.n_kv_head:
            raise ConfigError(f"{self.n_kv_head} heads of keys do not divide {self.n_head} heads of queries")
        if damage := next(self._damage(), None):
            raise ConfigError(f"{damage}, which no model has")

    def _damage(self) -> Iterator[str]:
        """What no model can be computed with; it would else be found as numbers that are none."""
        for rope in self.ropes:
            if not (0 < rope.theta < math.inf and 0 < rope.factor < math.inf and rope.original >= 0):
                yield f"a rotation of theta {rope.theta}, factor {rope.factor} and original context {rope.original}"
            if rope.channels < 1 or rope.channels + rope.channels % 2 > self.head_dim:
                yield f"{rope.channels} of {self.head_dim} channels of a head that turn in pairs"
            if not all(0 < number < math.inf for number in (rope.scale, rope.low, rope.high, *rope.short, *rope.long)):
                yield "a factor of the rotation that is no positive number"
        numbers = {
            "eps of norms": self.norm_eps, "scale of scores": self.score_scale, "cap of scores": self.score_cap,
            "cap of logits": self.logit_cap, "scale of logits": self.logit_scale,
            "scale of embeddings": self.embedding_scale, "scale of residuals": self.residual_scale,
        }  # fmt: skip
        yield from (f"{name} {x}" for name, x in numbers.items() if x is not None and not 0 < x < math.inf)
        yield from (f"a window of {window} positions" for window in self.windows if window is not None and window < 1)
        for per_layer in (self.rope_of, self.windows):
            if len(per_layer) not in (0, self.n_layer):
                yield f"{len(per_layer)} entries for {self.n_layer} layers"

    @property
    def head_dim(self) -> int:
        return self.head_width or self.n_embd // self.n_head

    @property
    def n_kv_head(self) -> int:
        """Heads of keys and values."""
        return self.kv_heads or self.n_head

    @property
    def mlp_dim(self) -> int:
        return self.n_inner or 4 * self.n_embd

    def scale_of_scores(self, layer: int) -> float:
        """What products of queries and keys are multiplied by; layers are counted from 0."""
        if self.score_scale is not None:
            return self.score_scale
        scale = 1 / math.sqrt(self.head_dim) if self.scale_scores else 1.0
        return scale / (layer + 1) if self.scale_by_layer else scale

    def rope(self, layer: int) -> Rope | None:
        which = self.rope_of[layer] if self.rope_of else None
        return None if which is None else self.ropes[which]

    def window(self, layer: int) -> int | None:
        return self.windows[layer] if self.windows else None

    @property
    def border(self) -> int | None:
        """Rows of more tokens turn by other factors from their first position on (longrope); None: all turn alike."""
        return next((rope.original for rope in self.ropes if rope.long), None)

    def shapes(self) -> dict[str, list[int]]:
        """Name and shape of every parameter of the decoder, in a fixed order; matrices are (out, in)."""
        C, D = self.n_embd, self.head_dim
        heads, kv_heads, inner = self.n_head * D, self.n_kv_head * D, self.mlp_dim
        shapes: dict[str, list[int]] = {"wte.weight": [self.vocab_size, C]}

        def put(name: str, *shape: int, bias: bool = False) -> None:
            shapes[f"{name}.weight"] = list(shape)
            if bias:
                shapes[f"{name}.bias"] = list(shape[:1])

        def norm(name: str, width: int = C) -> None:
            put(name, width, bias=self.norm == "layer")

        if self.learned_positions:
            put("wpe", self.context_length, C)
        norm("ln_f")
        for layer in range(self.n_layer):
            at = f"h.{layer}."
            if self.norms != "after":
                norm(f"{at}ln_1")
                if self.parallel != "one norm":
                    norm(f"{at}ln_2")
            if self.norms != "before":
                norm(f"{at}ln_1_out")
                norm(f"{at}ln_2_out")
            put(f"{at}attn.c_attn", heads + 2 * kv_heads, C, bias="qkv" in self.biases)
            if self.qk_norm:
                norm(f"{at}attn.q_norm", D if self.qk_norm == "head" else heads)
                norm(f"{at}attn.k_norm", D if self.qk_norm == "head" else kv_heads)
            put(f"{at}attn.c_proj", C, heads, bias="attention" in self.biases)
            put(f"{at}mlp.c_fc", (2 if self.gated else 1) * inner, C, bias="mlp" in self.biases)
            put(f"{at}mlp.c_proj", C, inner, bias="mlp" in self.biases)
        if not self.tie_weights:
            put("lm_head", self.vocab_size, C)
        if "head" in self.biases:
            shapes["lm_head.bias"] = [self.vocab_size]
        return shapes
