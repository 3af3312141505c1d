"""Speeds that an estimate is made of, measured here."""

from collections import Counter

import torch

from ift.artifacts.machine import KEPT_SHAPES, Device
from ift.training.this_machine import this_machine
from ift.training.traced import Product, Shape, Work


def test_this_machine_is_measured():
    """A transposed factor is a view of (256, 64)."""
    left, right = Shape((128, 64), (64, 1), torch.float32), Shape((64, 256), (1, 64), torch.float32)
    bias = Shape((256,), (1,), torch.float32)
    mm = Product(torch.ops.aten.mm.default, (left, right), (), 2 * 128 * 64 * 256)
    addmm = Product(torch.ops.aten.addmm.default, (bias, left, right), (("beta", 1),), 2 * 128 * 64 * 256)
    batch = Work(products=9 * mm.flop, shapes=Counter({mm: 5, addmm: 4}))
    found = this_machine(Device("cpu", "fp32"), batch, occupied=1e8)
    assert found.products > 1e8
    assert found.moved > 1e7
    assert 0 < found.call < 0.1
    assert found.memory is None or found.memory > found.occupied > 1e7


def test_what_is_kept_prepared_of_products_in_bf16_counts_as_occupied():
    """32 second factors of 64 x 256 numbers of 2 bytes; fp32 is not oneDNN's."""
    for dtype, kept in ((torch.bfloat16, KEPT_SHAPES * 64 * 256 * 2), (torch.float32, 0)):
        left, right = Shape((8, 64), (64, 1), dtype), Shape((64, 256), (1, 64), dtype)
        batch = Work(shapes=Counter({Product(torch.ops.aten.mm.default, (left, right), (), 2 * 8 * 64 * 256): 1}))
        assert this_machine(Device("cpu", "fp32"), batch, occupied=1e8).occupied == 1e8 + kept
