"""trainer=fsdp: each rank keeps a slice of every weight, of its gradient and of the optimizer's state.

FSDP2 (torch's fully_shard; Zhao et al. 2023, arXiv:2304.11277) through Lightning's ModelParallelStrategy. The weights
of a block are gathered when it is computed, forward and backward, and its gradients summed into the slices; the
embedding, the head and the last norm are one more group. Losses are those of one process, up to the order of sums.

Tensor parallelism is not offered: the rows of fused queries, keys and values would have to be interleaved by heads, a
vocabulary such as 50,257 does not divide, and our products and losses are made for whole tensors.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ift.artifacts.weights import Folder, begin_magnitudes, load_base, weights_in_order
from ift.errors import ConfigError
from ift.model.gpt import GPT
from ift.model.linear import Linear
from ift.model.nf4 import in_four_bits
from ift.settings import TrainerSettings
from ift.training.checkpoint import SealedCheckpointIO
from ift.training.ranks import DataParallel, agree, gather
from ift.training.sharded_files import Ranks, load_together, save_together

if TYPE_CHECKING:  # torch takes two seconds for it, which other trainings do not wait
    from torch.distributed.fsdp import FSDPModule


class Sharded(ModelParallelStrategy):
    """
    shard_size: ranks that share one copy of the model; fewer than all of them: there are several copies, and gradients
        are summed over those too (hybrid sharding: gathering stays within a node, say)
    sum_every_batch: sum gradients after each micro-batch of a step; otherwise once a step, for which each rank keeps
        the gradients of all weights, in fp32, while a step accumulates
    weights: what a model on the meta device is filled with; each rank reads its slices
    """

    def __init__(self, *, shard_size: int | None, sum_every_batch: bool, weights: Folder | None):
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=True)
        self.shard_size, self.sum_every_batch, self.weights = shard_size, sum_every_batch, weights

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def mesh(self) -> DeviceMesh:
        """(shards,), or (copies, shards) for hybrid sharding."""
        world, size = self.world_size, self.shard_size or self.world_size
        if size == world:
            return self.device_mesh["data_parallel"]
        return init_device_mesh(self.root_device.type, (world // size, size), mesh_dim_names=("copies", "shards"))

    def shard(self, model: GPT) -> None:
        """Keep this rank's slices of a model that is whole, or that is on the meta device; once."""
        if groups(model):
            return
        for _, layer in in_four_bits(model):
            layer.become_parameters()
        shard(model, self.mesh())
        if next(model.parameters()).is_meta:
            assert self.weights is not None
            for part in model.modules():
                if any(parameter.is_meta for parameter in part.parameters(recurse=False)):  # adapters are there
                    part.to_empty(device=self.root_device, recurse=False)
            model.tie()
            load_base(model, self.weights)
            if model.low_rank:
                begin_magnitudes(model, self.weights)

    def before_backward(self, model: GPT, *, last: bool) -> None:
        """last: of a step's micro-batches. Gradients are summed over ranks in its backward, or in each."""
        cast(Any, model).set_requires_gradient_sync(last or self.sum_every_batch)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's slices, not copied."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """As every optimizer gives it, by numbers of parameters: checkpoints have one form, however they were made."""
        return cast(dict[str, Any], getattr(optimizer, "_optimizer", optimizer).state_dict())

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Every rank writes its slices. Where a disk refuses one, all know it by `failed` of the checkpoint plugin."""
        files = cast(SealedCheckpointIO, self.checkpoint_io)
        files.failed = save_together(checkpoint, Path(filepath), self._ranks(), before=files.before)
        files.ended(checkpoint["about"]["step"], files.failed)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every rank reads its slices, whoever wrote the checkpoint. Raises WeightsError, on all ranks, if damaged."""
        module = cast(Any, self.lightning_module)
        return load_together(
            Path(checkpoint_path), self._ranks(), self.world_size,
            into=module.kept(module.state_dict()), optimizers=self.optimizers,
        )  # fmt: skip

    def _ranks(self) -> Ranks:
        assert self.lightning_module is not None
        return Ranks(
            self.global_rank,
            partial(gather, self.lightning_module.trainer),
            writes=self.global_rank < (self.shard_size or self.world_size),  # the first copy
        )


@contextmanager
def answering(trainer: L.Trainer, model: GPT) -> Iterator[bool]:
    """Around answers; whether this rank is to give them. Of a sharded model all ranks give the same ones together.

    Where all of it fits into memory on every rank it stays gathered meanwhile; a token then needs no other rank.
    """
    parts = groups(model)
    if not parts:
        yield trainer.is_global_zero
        return
    give_slices_back(model)  # from here on ranks gather the same parts
    keep = not agree(trainer, not _fits(model))
    for part in parts:
        part.set_reshard_after_forward(not keep)
        if keep or cast(nn.Module, part) is model:  # the head is asked outside of the model's forward
            part.unshard()
    try:
        yield True
    finally:
        for part in parts:
            part.set_reshard_after_forward(cast(nn.Module, part) is not model)
            part.reshard()


def _fits(model: GPT) -> bool:
    """Whether all weights fit beside what a GPU has, with as much again for what answers need. A CPU says nothing."""
    if model.device.type != "cuda":
        return True
    needed = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    free = torch.cuda.mem_get_info(model.device)[0]
    return 2 * needed < free + torch.cuda.memory_reserved(model.device) - torch.cuda.memory_allocated(model.device)


def the_first_writes(trainer: L.Trainer, model: GPT, write: Callable[[Iterator[Tensor]], None]) -> Exception | None:
    """The first rank writes what needs all weights, a tensor at a time, and the others give their slices of it.

    write gets `weights_in_order`. Returns its error, on the first rank; none waits for one that stopped in the middle.
    """
    give_slices_back(model)
    weights, error = weights_in_order(model), None
    if trainer.is_global_zero:
        try:
            write(weights)
        except Exception as failure:
            error = failure
    if groups(model):
        for _ in weights:
            pass
    return error


def strategy_of(settings: TrainerSettings, *, world: int, weights: Folder | None) -> Any:
    """What Lightning's trainer is given. Raises ConfigError where the ranks cannot share out the model."""
    if settings.strategy == "fsdp":
        if world % (settings.shard_size or world):
            raise ConfigError(
                f"trainer.shard_size={settings.shard_size}: does not divide {world} devices (set it to a divisor)"
            )
        return Sharded(shard_size=settings.shard_size, sum_every_batch=settings.sum_every_batch, weights=weights)
    return DataParallel() if world > 1 else "auto"


def shard(model: GPT, mesh: DeviceMesh) -> None:
    """Where products are in a lower type, the weights of a block's products are gathered in that type, half the bytes;
    all else, and every sum over ranks, stays in fp32. So losses are those of weights that are cast where they are used.
    The base under adapters is in that type already, or in four bits, and adapters stay in fp32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    low = model.compute_dtype
    for block in model.h:
        if low == torch.float32 or model.low_rank:
            fully_shard(block, mesh=mesh)
        else:
            policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False)
            fully_shard([part for part in block.modules() if isinstance(part, Linear)], mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "hidden")  # the head's weights stay gathered from there to the backward
    for part in groups(model):
        part.set_gradient_divide_factor(1.0)  # sums, not means: a step is divided by its weight
        part.set_force_sum_reduction_for_comms(True)  # as gloo knows it


def groups(model: nn.Module) -> list[FSDPModule]:
    """The parts of a model whose weights are gathered together; none where it is whole."""
    module = sys.modules.get("torch.distributed.fsdp")
    return [] if module is None else [part for part in model.modules() if isinstance(part, module.FSDPModule)]


def is_sharded(model: nn.Module) -> bool:
    return bool(groups(model))


def give_slices_back(model: nn.Module) -> None:
    """Parameters are slices from here on: a forward without a backward leaves some gathered."""
    for part in groups(model):
        part.reshard()
