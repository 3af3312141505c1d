"""Gradients of three ranks are added up twice, in buckets of 64 bytes: python three_ranks.py FOLDER"""

import os
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from torch import nn

from ift.training import ranks

SIZES = ((3, 4), (5,), (40,), (2, 2), (1,))  # 48 bytes and 20 do not fit together; 160 are more than a bucket
WITHOUT = (1, 3)  # the rank that has no gradient of a parameter, and which: its rows had nothing to say of it


def main(folder: Path) -> None:
    rank, world = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    trainer = SimpleNamespace(world_size=world, strategy=ranks.DataParallel())
    ranks.BUCKET = 64
    parameters = [nn.Parameter(torch.zeros(size)) for size in SIZES]
    draw = torch.Generator().manual_seed(rank)
    mine = [torch.randn(size, generator=draw) * 10.0 ** torch.randn((), generator=draw) for size in SIZES]
    found = {f"mine-{i}": gradient.clone() for i, gradient in enumerate(mine)}
    for name in ("first", "second"):
        for number, (parameter, gradient) in enumerate(zip(parameters, mine, strict=True)):
            parameter.grad = None if (rank, number) == WITHOUT else gradient.clone()
        ranks.sum_gradients(trainer, parameters)
        found |= {f"{name}-{i}": parameter.grad for i, parameter in enumerate(parameters)}
    save_file(found, folder / f"rank-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
