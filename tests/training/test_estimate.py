"""Arithmetic on traced steps: what each of several devices holds and does."""

from dataclasses import replace

import pytest

from ift.model.config import GPTConfig
from ift.training.estimate import PUBLISHED, Machine, Plan, cache_bytes, seconds, share, useful_devices
from ift.training.traced import Traced, Work

GB = 1e9
MACHINE = Machine("one", products=1e12, moved=1e11, call=1e-6, memory=24 * GB, occupied=GB, wire=1e9)
STEP = Traced(
    parameters=10**9, weights=4 * 10**9, trained=10**9, gradients=4 * 10**9, state=8 * 10**9, peak=20 * 10**9,
    saved=12 * 10**9, largest_block=10**8, embedding=5 * 10**8,
    batch=Work(products=6e12, moved=2e11, calls=1000), step=Work(moved=2e10, calls=100),
)  # fmt: skip


def of(**how):
    return share(STEP, STEP, MACHINE, **{"devices": 1, "accumulate": 1, "sharded": False, **how})


def test_time_is_that_of_products_passes_and_calls():
    assert seconds(STEP.batch, MACHINE) == pytest.approx(6 + 2 + 0.001)


def test_one_device_holds_all_and_sends_nothing():
    one = of()
    assert (one.weights, one.gradients, one.state, one.activations) == (4e9, 4e9, 8e9, 4e9)
    assert (one.gathered, one.wire) == (0, 0)
    assert one.memory == 21e9
    assert one.compute == pytest.approx(8.001 + 0.2001)
    assert of(accumulate=3).compute == pytest.approx(3 * 8.001 + 0.2001)
    assert (one.useful, one.seconds) == (1, one.compute)


def test_the_copy_of_what_is_saved_counts_where_it_lies_in_the_device_s_memory():
    """12 GB of weights and optimizer; slices are not copied."""
    gpu, cpu = of(), share(STEP, STEP, replace(MACHINE, is_cpu=True), devices=1, accumulate=1, sharded=False)
    assert (gpu.copied, gpu.memory) == (12e9, 21e9)
    assert (cpu.copied, cpu.needed, cpu.memory) == (12e9, 21e9, 33e9)
    assert of(devices=4, sharded=True).copied == 0


def test_ddp_sends_two_gradients_but_one_part_and_holds_them_twice():
    four = of(devices=4)
    assert four.weights == 4e9
    assert four.gathered == 4e9
    assert four.wire == pytest.approx(2 * 4e9 * 3 / 4 / 1e9)
    assert of(devices=4, accumulate=5).wire == four.wire  # once a step


def test_fsdp_holds_a_part_and_sends_three_times_in_each_micro_batch():
    four = of(devices=4, sharded=True)
    assert (four.weights, four.gradients, four.state) == (1e9, 1e9, 2e9)
    assert four.activations == 4e9
    assert four.gathered == 2 * 1e8 + 5e8
    assert four.wire == pytest.approx(3 * 4e9 * 3 / 4 / 1e9)
    assert of(devices=4, accumulate=5, sharded=True).wire == pytest.approx(5 * four.wire)


def test_with_an_adapter_the_frozen_base_is_cut_and_sent_and_gradients_are_of_the_adapter_alone():
    adapted = replace(STEP, gradients=4e7, state=8e7, peak=STEP.peak - 4e9 + 4e7 - STEP.state + 8e7)
    four = share(adapted, adapted, MACHINE, devices=4, accumulate=1, sharded=True)
    assert (four.weights, four.gradients, four.state) == (1e9, 1e7, 2e7)
    assert four.activations == 4e9
    assert four.wire == pytest.approx((2 * 4e9 + 4e7) * 3 / 4 / 1e9)


def test_more_devices_are_useful_until_they_wait_most_of_the_time():
    def share_of(devices, rows):
        return replace(of(), compute=64.0 / devices, wire=2.0 if devices > 1 else 0.0)

    assert useful_devices(share_of, 64) == 32  # 2 s of computing beside 2 s on the wire: useful; 1 beside 2: not
    assert useful_devices(share_of, 8) == 8  # a device needs a row
    assert useful_devices(share_of, 1) == 1


def test_steps_are_those_of_training():
    plan = Plan(
        rows=1000, row_tokens=50, batch_size=8, accumulate=2, epochs=3, max_steps=None, devices=4, sharded=False
    )
    assert plan.rows_a_step == 64
    assert plan.steps == 3 * 16
    assert replace(plan, max_steps=10).steps == 10


def test_keys_and_values_of_a_token():
    gpt2 = GPTConfig(vocab_size=50257, context_length=1024, n_layer=12, n_head=12, n_embd=768)
    assert cache_bytes(gpt2, 2) == 36_864  # 4 LC in bf16
    assert cache_bytes(replace(gpt2, kv_heads=3), 2) == 36_864 // 4


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_devices_are_plausible(name):
    found = PUBLISHED[name]
    assert 50e12 < found.products < 2e15
    assert 20e9 < found.memory < 200e9
