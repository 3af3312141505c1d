"""Ranges of rows, read from whichever files hold them."""

import json

import pytest
import torch

from ift.errors import WeightsError
from ift.training.checkpoint import write_tensors
from ift.training.stored import ROWS, stored_tensors


def test_any_rows_are_read_from_the_slices_that_hold_them(tmp_path):
    """7 rows of 3 bytes-and-more, of which ranks have 3, 3 and 1; a rank without rows has an empty slice."""
    whole = torch.arange(21.0).view(7, 3)
    for rank, (first, last) in enumerate(((0, 3), (3, 6), (6, 7), (7, 7))):
        write_tensors(
            {"w": whole[first:last]}, tmp_path / f"rank-{rank}.safetensors", {ROWS: json.dumps({"w": [first, 7]})}
        )
    write_tensors({"step": torch.tensor(5.0), "flag": torch.tensor([True, False])}, tmp_path / "state-0.safetensors")
    stored = stored_tensors(tmp_path)
    assert stored["w"].shape == (7, 3)
    for first in range(8):
        for rows in range(8 - first):
            assert torch.equal(stored["w"].read(first, rows), whole[first : first + rows])
    assert torch.equal(stored["w"].read(), whole)
    assert stored["step"].read().item() == 5.0
    assert stored["flag"].read().tolist() == [True, False]


def test_rows_that_no_file_has_are_an_error(tmp_path):
    write_tensors({"w": torch.ones(2, 3)}, tmp_path / "rank-0.safetensors", {ROWS: json.dumps({"w": [0, 4]})})
    stored = stored_tensors(tmp_path)["w"]
    assert stored.read(0, 2).sum() == 6
    with pytest.raises(WeightsError, match="2 rows of a tensor are in none of its files"):
        stored.read()
