"""What a training step needs, asked of the step itself: it runs on tensors without memory, and each operation counts.

So the numbers are those of whatever the model, the layout of rows, the optimizer and the adapter do, and no formula
has to follow when one of them changes.
"""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ift.data.batches import Batch
from ift.model.gpt import GPT
from ift.model.nf4 import numbers, stored_bytes
from ift.training.objectives import Objective


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> float:
    return float(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> float:
    return float(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


PRODUCTS = {  # operation -> what computes its FLOP from what it is given; torch's list leaves out a CPU's attention
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
ROWS_ALONE = ("embedding", "index_select", "gather", "index", "select")  # they read what they give, not all they get


class Shape(NamedTuple):
    """A tensor without its numbers."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


class Product(NamedTuple):
    """A matrix product that can be done again: the operation, and what it was given, tensors as their shapes."""

    func: Any
    given: tuple[Any, ...]
    options: tuple[tuple[str, Any], ...]
    flop: float


@dataclass
class Work:
    """What operations do."""

    products: float = 0.0  # operations of matrix products, 2 for a multiplication and an addition (FLOP)
    moved: float = 0.0  # bytes that all other operations read and write
    calls: int = 0  # of operations that are no views
    shapes: Counter[Product] = field(default_factory=Counter)  # the products one by one, and how often each

    def __sub__(self, other: Work) -> Work:
        shapes = self.shapes - other.shapes
        return Work(self.products - other.products, self.moved - other.moved, self.calls - other.calls, shapes)

    def copy(self) -> Work:
        return replace(self, shapes=Counter(self.shapes))

    def times(self, factor: float) -> Work:
        """Of a batch that is so many times as large; calls stay."""
        return replace(self, products=self.products * factor, moved=self.moved * factor)


@dataclass(frozen=True)
class Traced:
    """Bytes and work of a step that is not the first: the optimizer's state is there already."""

    parameters: int  # numbers of the model
    weights: int  # bytes of all parameters
    trained: int  # how many numbers of them are trained
    gradients: int  # bytes, after the backward
    state: int  # bytes of the optimizer
    saved: int  # bytes of a checkpoint: weights, of an adapter its own alone, and the optimizer
    peak: int  # most bytes that are there at one time, all of the above included
    largest_block: int  # bytes of the parameters of one block
    embedding: int  # bytes of what is in no block: embeddings, last norm, head
    batch: Work  # forward and backward of one micro-batch
    step: Work  # norm of the gradients, clipping and the optimizer: once a step

    @property
    def activations(self) -> int:
        """Bytes at the peak besides weights, gradients and the optimizer's state."""
        return self.peak - self.weights - self.gradients - self.state


class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the work of all operations, and the bytes of tensors that are there, while it is active.

    Whole numbers stay real where tensors have no memory: how rows lie is computed with them, and is needed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}  # storage -> its bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        real = not any(isinstance(x, FakeTensor) for x in given) and (given or _makes_whole_numbers(func, args, kwargs))
        if func is torch.ops.aten._local_scalar_dense.default and not real:
            return 1.0  # a number that is asked for: there is none; a gradient of a sum begins with 1
        storages = {_storage(x) for x in given}
        with unset_fake_temporarily() if real else nullcontext():
            out = func(*args, **kwargs)
        made = [x for x in tree_iter(out) if isinstance(x, Tensor)]
        for tensor in made:
            self.see(tensor)
        name = func._overloadpacket.__name__
        is_view = not name.endswith("_") and all(_storage(x) in storages for x in made)
        if is_view and "out" not in kwargs:  # or a question about a tensor, which makes none
            return out
        self.work.calls += 1
        if func._overloadpacket in PRODUCTS:
            flop = PRODUCTS[func._overloadpacket](*args, **kwargs, out_val=out)
            self.work.products += flop
            self.work.shapes[_product(func, args, kwargs, flop)] += 1
        elif name in ROWS_ALONE:
            self.work.moved += 2 * sum(map(_bytes, made))
        elif name not in ("empty", "empty_like", "empty_strided", "new_empty"):
            self.work.moved += sum(map(_bytes, {id(x): x for x in (*given, *made)}.values()))
        return out

    def see(self, tensor: Tensor) -> None:
        """Count a tensor's memory until it is gone."""
        if tensor.is_sparse:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)


def _product(func: Any, args: Any, kwargs: Any, flop: float) -> Product:
    def shape(x: Any) -> Any:
        return Shape(tuple(x.shape), x.stride(), x.dtype) if isinstance(x, Tensor) else x

    if "out" in kwargs:
        func = func._overloadpacket.default
    options = tuple((name, value) for name, value in kwargs.items() if not isinstance(value, Tensor))
    return Product(func, tuple(map(shape, args)), options, flop)


def _makes_whole_numbers(func: Any, args: Any, kwargs: Any) -> bool:
    """Of something that is called without a tensor."""
    dtype = kwargs.get("dtype")
    if dtype is None:
        return func._overloadpacket is torch.ops.aten.arange and all(isinstance(x, int) for x in args)
    return not (dtype.is_floating_point or dtype.is_complex)


def _storage(tensor: Tensor) -> int:
    return 0 if tensor.is_sparse else int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    """What is read of a tensor: of one that repeats itself (strides of 0) its memory alone."""
    if tensor.is_sparse:
        return 2 * _bytes(tensor._values())
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


@contextmanager
def without_memory() -> Iterator[Tracker]:
    """Tensors that are made inside have shapes and no numbers; what is made and done is counted."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*data pointer of FakeTensor.*")
        with FakeTensorMode(allow_non_fake_inputs=True), Tracker() as tracker:
            yield tracker


def trace_step(
    make_model: Callable[[], GPT],
    make_optimizer: Callable[[GPT], torch.optim.Optimizer],
    objective: Objective,
    batch: Batch,
) -> Traced:
    """The second step of a training on such a batch.

    make_model: called where tensors have no memory; what it does not train must not require gradients
    """
    with without_memory() as tracker:
        model = make_model().train()
        parameters = list(model.parameters())
        for parameter in parameters:
            tracker.see(parameter)
        trained = [p for p in parameters if p.requires_grad]
        optimizer = make_optimizer(model)
        for parameter in trained:  # the step before has been: its gradients and the optimizer's state are there
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
        before = tracker.work.copy()
        loss, weight, _ = objective(model, batch)
        # as Lightning does it: the gradients of the step before are there until the forward is done
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss / weight)
        done = tracker.work - before
        before = tracker.work.copy()
        for parameter in trained:
            if parameter.grad is not None and parameter.grad.is_sparse:
                parameter.grad = parameter.grad.to_dense()
        torch.nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        optimizer.step()
        update = tracker.work - before
        state = {
            id(value): value.nbytes for value in tree_iter(optimizer.state_dict()["state"]) if isinstance(value, Tensor)
        }
        in_blocks = [stored_bytes(block) for block in model.h]
        weights = stored_bytes(model)
        kept = sum(state.values())
        return Traced(
            parameters=numbers(model),
            weights=weights,
            trained=sum(p.numel() for p in trained),
            gradients=sum(p.grad.nbytes for p in trained if p.grad is not None),
            state=kept,
            saved=kept + (weights if model.low_rank is None else sum(p.nbytes for p in trained)),
            peak=tracker.peak,
            largest_block=max(in_blocks),
            embedding=weights - sum(in_blocks),
            batch=done,
            step=update,
        )
