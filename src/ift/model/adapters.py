"""Low-rank adapters on the matrices of a model: what they compute, how a model gets them, how they are merged.

The base is frozen and costs no gradient of a weight. A product of ours may hold several published matrices (queries,
keys and values): each has an A and a B of its own, and they read x together. Parameters are fp32, products in the type
of the base's.

N rows, C channels in, O out, r ranks of all matrices of a product together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ift.model.families import family_of
from ift.model.families.family import Piece, as_published
from ift.model.gpt import GPT
from ift.model.linear import Linear
from ift.model.low_rank import LowRank, merged_weight


class Adapter(nn.Module):
    """Of one published matrix: A (r, C), B (O, r) and with DoRA the lengths of its rows, (O,)."""

    _lengths: tuple[Any, Tensor] | None = None

    def __init__(self, weight: Tensor, rows: slice, *, rank: int, scale: float, dora: bool):
        """weight: (O, C) of the base, which it leaves as it is; on the meta device it is filled later, and DoRA's
        lengths with it. rows: of the product's output."""
        super().__init__()
        self.rows, self.scale = rows, scale
        later = weight.device.type == "meta"
        device = torch.device("cpu") if later else weight.device
        self.A = nn.Parameter(torch.empty(rank, weight.shape[1], dtype=torch.float32, device=device))
        self.B = nn.Parameter(torch.zeros(weight.shape[0], rank, dtype=torch.float32, device=device))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # within 1 / sqrt(C), as torch's Linear and PEFT
        lengths = torch.linalg.vector_norm(weight.float(), dim=1) if dora else None
        lengths = torch.empty_like(lengths, device=device) if lengths is not None and later else lengths
        self.magnitude = None if lengths is None else nn.Parameter(lengths)

    def __getstate__(self) -> dict[str, Any]:
        """For copies of a model: what was kept stays with the weights that it was made of."""
        return {name: value for name, value in self.__dict__.items() if name != "_lengths"}

    def lengths(self, weight: Tensor) -> Tensor:
        """(O,) norms of the rows of W + s B A, without a gradient, as DoRA has them (section 4.3 of the paper).

        |w + s b A|² = |w|² + 2 s b.(A w) + s² b.(A A' b): nothing of the size of W is made. Without gradients they are
        kept, as an answer needs them for each token; a forward with gradients, after which weights change, drops them.
        """
        A, B, s = self.A.detach(), self.B.detach(), self.scale
        state = A.device, self.A._version, self.B._version  # what loads weights counts up, not each optimizer
        if torch.is_grad_enabled():
            self._lengths = None
        elif self._lengths is not None and self._lengths[0] == state:
            return self._lengths[1]
        weight = weight.detach().float()
        square = weight.square().sum(1) + ((2 * s * (weight @ A.t()) + s * s * (B @ (A @ A.t()))) * B).sum(1)
        lengths = square.clamp(min=0).sqrt()
        if not torch.is_grad_enabled():
            self._lengths = state, lengths
        return lengths

    def forget(self) -> None:
        """Other weights have been loaded. (Those that ranks gather do not count up.)"""
        self._lengths = None

    def merged(self, weight: Tensor) -> Tensor:
        """(O, C) fp32 of the base -> with the adapter in it."""
        magnitude = None if self.magnitude is None else self.magnitude.detach()
        return merged_weight(weight.detach().float(), self.A.detach(), self.B.detach(), self.scale, magnitude)


class AdaptedLinear(Linear):
    """A frozen product, of whatever kind, with adapters on some or all of its rows."""

    def __init__(self, base: Linear, adapters: dict[str, Adapter], dropout: float):
        """dropout: of what goes into A. The matrices of a product see the same units."""
        nn.Module.__init__(self)  # torch's own would allocate a weight
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base, self.adapters, self.dropout = base, nn.ModuleDict(adapters), dropout

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(O, C) of the base."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        return self.base.bias

    @property
    def worth_holding(self) -> bool:
        return False  # the base is asked by itself

    @property
    def parts(self) -> list[Adapter]:
        return cast(list[Adapter], list(self.adapters.values()))

    def weight_to_compute(self) -> Tensor:
        return self.base.weight_to_compute()

    def forward(self, x: Tensor) -> Tensor:
        parts, dtype = self.parts, self.base.compute_dtype
        x = x.to(dtype)
        with_lengths = parts[0].magnitude is not None
        out: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            x,
            F.dropout(x, self.dropout) if self.dropout and self.training else None,
            self.base,
            None if with_lengths else self.bias,
            torch.cat([part.A for part in parts]).to(dtype),
            tuple(Place(part.rows, part.scale) for part in parts),
            *(part.B.to(dtype) for part in parts),
        )
        if with_lengths:
            out = out * self._stretch().to(dtype)
            out = out if self.bias is None else out + self.bias.to(dtype)
        return out

    def _stretch(self) -> Tensor:
        """(O,) DoRA's factor of each output; 1 where a matrix has no adapter."""
        weight, end = self.weight, 0
        factors: list[Tensor] = []
        for part in self.parts:
            assert part.magnitude is not None
            factors += [weight.new_ones(part.rows.start - end, dtype=torch.float32)]
            factors += [part.magnitude / part.lengths(weight[part.rows])]
            end = part.rows.stop
        return torch.cat([*factors, weight.new_ones(self.out_features - end, dtype=torch.float32)])

    def merged(self) -> Tensor:
        """(O, C) fp32: the weight of a product without adapters that computes the same."""
        whole = self.weight.detach().float().clone()
        for part in self.parts:
            whole[part.rows] = part.merged(whole[part.rows])
        return whole


class Place(NamedTuple):
    """Where in a product's output an adapter's own is added, and times what."""

    rows: slice
    scale: float


class _Product(torch.autograd.Function):
    """x W' + b + s (x A') B' with W and b frozen. Kept for the backward: x, and x A' of (N, r).

    into_A: x with units dropped; then x itself is not kept. A (r, C) of all matrices, Bs (O, r) of each.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        into_A: Tensor | None,
        base: Linear,
        bias: Tensor | None,
        A: Tensor,
        places: tuple[Place, ...],
        *Bs: Tensor,
    ) -> Tensor:
        ctx.places, ctx.same, ctx.base = places, into_A is None, base
        into_A = x if into_A is None else into_A
        low = base.weight_to_compute()
        thin = F.linear(into_A, A)
        out = F.linear(x, low, None if bias is None else bias.to(low.dtype))
        flat, narrow = out.view(-1, out.shape[-1]), thin.view(-1, thin.shape[-1])
        for (rows, scale), B, u in zip(places, Bs, _split(narrow, Bs), strict=True):
            flat[:, rows].addmm_(u, B.t(), alpha=scale)
        ctx.save_for_backward(into_A, narrow, A, *Bs)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        into_A, narrow, A, *Bs = ctx.saved_tensors
        flat = gradient.reshape(-1, gradient.shape[-1])
        d_narrow = torch.empty_like(narrow)
        d_Bs = []
        for (rows, scale), B, u, d_u in zip(ctx.places, Bs, _split(narrow, Bs), _split(d_narrow, Bs), strict=True):
            torch.mm(flat[:, rows], B * scale, out=d_u)
            d_Bs.append((flat[:, rows].t() @ u).mul_(scale))
        d_A = d_narrow.t() @ into_A.reshape(-1, into_A.shape[-1])
        needs_x, needs_into_A = ctx.needs_input_grad[:2]
        d_x = flat @ ctx.base.weight_to_compute() if needs_x else None
        d_into_A = None
        if d_x is not None and ctx.same:
            d_x.addmm_(d_narrow, A)
        elif needs_into_A:
            d_into_A = (d_narrow @ A).view(into_A.shape)
        return None if d_x is None else d_x.view(into_A.shape), d_into_A, None, None, d_A, None, *d_Bs


def _split(narrow: Tensor, Bs: Any) -> tuple[Tensor, ...]:
    return torch.split(narrow, [B.shape[1] for B in Bs], dim=1)


# -- a model that has them ---------------------------------------------------------------------------------------------


def adapted(model: GPT, low_rank: LowRank, ends: GPT | None = None) -> list[str]:
    """Freeze the model and give it these adapters, which change nothing yet; the names of what is trained.

    A is drawn from torch's random numbers in the order of the model. ends: has the embedding and the head of a model
    that is on the meta device.
    """
    model.requires_grad_(False)
    wanted = set(low_rank.matrices)
    for ours, pieces in family_of(model.config).pieces(model.config).items():
        found = {name: piece for piece in pieces if (name := piece.name.removesuffix(".weight")) in wanted}
        if found:
            module = ours.removesuffix(".weight")
            linear = model.get_submodule(module)
            assert isinstance(linear, Linear)
            parts = {
                name.rpartition(".")[2]: Adapter(
                    linear.weight[piece.rows],
                    piece.rows,
                    rank=low_rank.rank_of(name),
                    scale=low_rank.scale_of(name),
                    dora=low_rank.dora,
                )
                for name, piece in found.items()
            }
            model.set_submodule(module, AdaptedLinear(linear, parts, low_rank.dropout))
    if low_rank.tokens:
        model.train_rows_of(low_rank.tokens, (ends or model).token_rows)
    model.low_rank = low_rank
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def hold_base_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the frozen weights under adapters in the type that products read them in: one cast for all steps.

    The products are the same, bit for bit. Merging begins with what the base's files hold, in its full precision.
    """
    for layer in model.modules():
        if isinstance(layer, AdaptedLinear) and type(layer.base) is Linear:
            layer.base.weight = nn.Parameter(layer.base.weight.detach().to(dtype), requires_grad=False)


def merge_adapters(model: GPT) -> None:
    """Put adapters into the weights, which become fp32; the model is then one as any other."""
    for name, layer in [(name, m) for name, m in model.named_modules() if isinstance(m, AdaptedLinear)]:
        plain = Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight, plain.bias = nn.Parameter(layer.merged()), layer.base.bias
        plain.compute_dtype = layer.base.compute_dtype
        model.set_submodule(name, plain)
    if model.own_rows is not None:
        model.own_rows.write_into(**model.token_rows)
    model.own_rows, model.low_rank = None, None
    model.requires_grad_(True)


def published_adapters(model: GPT) -> Iterator[tuple[str, Piece, Adapter]]:
    """Each adapter of a model with the published name of its matrix, in the order of the model."""
    assert model.low_rank is not None
    wanted = set(model.low_rank.matrices)
    for ours, pieces in family_of(model.config).pieces(model.config).items():
        for piece in pieces:
            if (name := piece.name.removesuffix(".weight")) in wanted:
                layer = model.get_submodule(ours.removesuffix(".weight"))
                assert isinstance(layer, AdaptedLinear)
                adapter = layer.adapters[name.rpartition(".")[2]]
                assert isinstance(adapter, Adapter)
                yield name, piece, adapter


def rows_as_published(rows: Tensor, piece: Piece, model: GPT) -> Tensor:
    """B (O, r) or lengths (O,) in the order of the published rows, as a view with heads apart; A has none."""
    straight = (
        piece._replace(form="as it is") if piece.form == "transposed" else piece
    )  # PEFT's B is (O, r) for GPT-2 too
    return as_published(rows, straight, model.config)
