"""What this machine is, and what a run asks of it."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from ift.artifacts import machine
from ift.artifacts.machine import choose_device, fast_bf16, resident_memory
from ift.errors import MachineError

FAULTS = """
import ctypes, platform, resource, sys
from ift.artifacts import machine
from ift.artifacts.machine import give_freed_memory_back, keep_freed_memory
if platform.libc_ver()[0] != "glibc":
    sys.exit()
if "kept" in sys.argv[1]:
    keep_freed_memory()
if "given back" in sys.argv[1]:
    give_freed_memory_back()
size = int(sys.argv[2])
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, size: int = 100_000_000) -> int:
    """Page faults of the third block that is written and freed, by default 24,414 pages of 4,096 bytes."""
    result = subprocess.run([sys.executable, "-c", FAULTS, how, str(size)], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return int(result.stdout or -1)


def test_memory_that_a_step_has_freed_costs_the_next_one_nothing():
    kept = faults("kept")
    if kept < 0:
        pytest.skip("another C library than glibc")
    assert kept < 100
    assert faults("as it comes") > 20_000


SHAPES = """
import sys
import torch
from ift.artifacts.machine import choose_device, resident_memory
if sys.argv[1] == "chosen":
    choose_device("cpu", "bf16", n_embd=512)
weight = torch.randn(2048, 512).bfloat16()
def product(rows):
    return torch.randn(rows, 512).bfloat16() @ weight.t()
for rows in range(700, 735):
    product(rows)
before = resident_memory()[1]
for rows in range(400, 550):
    product(rows)
print(resident_memory()[1] - before)
"""


def test_memory_is_what_the_system_says_of_this_process_alone(tmp_path):
    (tmp_path / "status").write_text("Name:\tpython\nVmPeak:\t 900 kB\nVmHWM:\t  500 kB\nVmRSS:\t  300 kB\n")
    assert resident_memory(tmp_path / "status") == (300 * 1024, 500 * 1024)
    assert resident_memory(tmp_path / "nothing") is None
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t  300 kB\n")
    assert resident_memory(tmp_path / "status") is None


def test_the_peak_is_not_that_of_the_process_that_started_it():
    """The system's maxrss begins with what the parent had, here 400 MB."""
    if resident_memory() is None:
        pytest.skip("no /proc here")
    large = torch.ones(50_000_000, dtype=torch.float64)
    code = "from ift.artifacts.machine import resident_memory; print(resident_memory()[1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert int(done.stdout) < large.nbytes + 0.2 * resident_memory()[0]


def test_products_of_ever_new_shapes_do_not_fill_the_memory():
    """150 products with a matrix of 2.1 MB, which each keep a copy of it where nothing is said: 315 MB."""

    def grown(how: str) -> int:
        bounds = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
        env = {name: value for name, value in os.environ.items() if name not in bounds}
        done = subprocess.run([sys.executable, "-c", SHAPES, how], env=env, capture_output=True, text=True, timeout=120)
        return int(done.stdout) / 1e6

    if grown("as it comes") < 150:
        pytest.skip("products in bf16 are not oneDNN's here")
    assert grown("chosen") < 75


def test_memory_that_is_given_back_leaves_no_place_for_others_to_fill():
    """30 MB, 7,324 pages: as it comes glibc keeps them from the second time on, and smaller blocks move in."""
    given = faults("given back", 30_000_000)
    if given < 0:
        pytest.skip("another C library than glibc")
    assert given > 7_000
    assert faults("kept, then given back", 30_000_000) > 7_000
    assert faults("as it comes", 30_000_000) < 100


def test_bf16_is_chosen_where_the_machine_is_fast_at_it_and_the_model_is_wide_enough():
    assert choose_device("cpu", "auto", n_embd=255).precision == "fp32"
    assert choose_device("cpu", "auto", n_embd=768).precision == ("bf16" if fast_bf16("cpu") else "fp32")
    assert choose_device("cpu", "bf16", n_embd=8).dtype == torch.bfloat16
    assert choose_device("cpu", "fp32", n_embd=768).dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(MachineError, match=r"trainer\.accelerator=gpu: no CUDA device here"):
        choose_device("gpu", "auto", n_embd=768)


@pytest.mark.parametrize(
    ("devices", "count", "numbers", "place"),
    [("auto", 4, (), "cuda:1"), (2, 2, (), "cuda:1"), ([3, 2], 2, (3, 2), "cuda:2"), ([0], 1, (0,), None)],
)
def test_gpus_are_all_so_many_or_those_of_a_list(monkeypatch, devices, count, numbers, place):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    device = choose_device("auto", "fp32", n_embd=8, devices=devices)
    assert (device.accelerator, device.count, device.numbers) == ("gpu", count, numbers)
    if place:  # of the second rank
        monkeypatch.setattr(machine, "here", lambda: SimpleNamespace(local_rank=1))
        assert str(device.torch_device) == place


def test_on_a_cpu_devices_are_processes(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [choose_device("cpu", "fp32", n_embd=8, devices=n).count for n in ("auto", 1, 3)] == [1, 1, 3]


@pytest.mark.parametrize(
    ("accelerator", "devices", "words"),
    [
        ("gpu", 3, "trainer.devices=3: this machine has 2 (set it to that)"),
        ("gpu", [0, 2], "trainer.devices=[0,2]: the GPUs of this machine have the numbers 0 to 1"),
        ("cpu", [0, 1], "trainer.devices=[0,1]: numbers of GPUs, and this is a CPU (trainer.devices=1 is one process)"),
    ],
)
def test_devices_that_are_not_there_are_refused(monkeypatch, accelerator, devices, words):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(MachineError) as refused:
        choose_device(accelerator, "fp32", n_embd=8, devices=devices)
    assert str(refused.value) == words
