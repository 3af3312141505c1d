"""A save of several ranks is one: whole or not there, and the error of one is heard by all."""

import errno
import os

import pytest
import torch

from ift.errors import MachineError, WeightsError
from ift.sealed import check
from ift.training.sharded_files import Ranks, check_together, save_together


def with_another(*answer):
    """What the first of two ranks gathers, where the other one has said this of its last work."""

    def gather(tensor):
        other = torch.tensor(answer[: len(tensor)], dtype=torch.int64) if len(answer) >= len(tensor) else tensor
        return torch.stack([tensor, other])

    return Ranks(0, gather)


def refuse():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_each_rank_hears_the_error_of_any():
    fine = (0, 64, *[7] * 32)
    assert with_another(*fine).together(lambda: "ab" * 32) == ["ab" * 32, "07" * 32]
    assert with_another(0, 0, *[0] * 32).together(lambda: "ab" * 32) == ["ab" * 32, ""]
    with pytest.raises(OSError, match=r"No space left on device \(rank 0\)"):
        with_another(*fine).together(refuse)
    with pytest.raises(OSError, match=r"Input/output error \(rank 1\)"):
        with_another(errno.EIO, 0, *[0] * 32).together(lambda: "ab" * 32)
    with pytest.raises(MachineError, match="rank 1 could not go on with a checkpoint"):
        with_another(-1, 0, *[0] * 32).together(lambda: "ab" * 32)
    with pytest.raises(ZeroDivisionError):  # its own, where it was made
        with_another(*fine).together(lambda: str(1 / 0))


def alone() -> Ranks:
    return Ranks(0, lambda tensor: tensor[None])


def test_a_refused_save_leaves_the_one_before_and_no_half(tmp_path):
    path = tmp_path / "checkpoints/step-00000003"
    checkpoint = {"state_dict": {"w": torch.arange(6.0)}, "about": {"step": 3}}
    assert save_together(checkpoint, path, alone()) is None
    assert check(path).about == {"step": 3, "ranks": 1, "copies": 1}
    error = save_together(checkpoint, path.with_name("step-00000004"), alone(), before=refuse)
    assert isinstance(error, OSError)
    assert sorted(each.name for each in path.parent.iterdir()) == ["LATEST", "step-00000003"]


def test_what_is_damaged_missing_or_strange_is_named_on_every_rank(tmp_path):
    path = tmp_path / "step-00000003"
    save_together({"state_dict": {"w": torch.arange(6.0)}, "about": {"step": 3}}, path, alone())
    assert check_together(path, alone(), 1)["step"] == 3
    file = path / "rank-00000.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(WeightsError, match=r"rank-00000.safetensors: damaged"):
        check_together(path, alone(), 1)
    found_by_the_other = Ranks(1, lambda tensor: torch.stack([torch.ones_like(tensor), tensor]))
    with pytest.raises(WeightsError, match="damaged"):
        check_together(path, found_by_the_other, 2)
    file.write_bytes(data)
    (path / "stray").write_bytes(b"")
    with pytest.raises(WeightsError, match="stray"):
        check_together(path, alone(), 1)
