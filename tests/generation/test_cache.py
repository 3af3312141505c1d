"""The cache: prompts and new tokens that join it give the states of the whole row."""

from types import SimpleNamespace

import torch

from ift.generation import cache as cache_module
from ift.generation.cache import GROWTH, Cache, Prefill, Step, slots_that_fit
from ift.model.config import GPTConfig
from ift.model.gpt import GPT

CONTEXT = 16


def model() -> GPT:
    torch.manual_seed(1)
    model = GPT(GPTConfig(40, CONTEXT, n_layer=3, n_head=2, n_embd=24))
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_prompts_and_then_token_by_token_give_the_states_of_whole_rows():
    gpt, ids = model(), torch.randint(40, (3, 12), generator=torch.Generator().manual_seed(3))
    whole, lengths, cache = gpt.hidden(ids), [2, 7, 4], Cache(model(), slots=3, capacity=12)
    flat = torch.cat([row[:n] for row, n in zip(ids, lengths, strict=True)])
    states = gpt.hidden(flat, Prefill(cache, 0, lengths, 0))
    close(states, torch.cat([row[:n] for row, n in zip(whole, lengths, strict=True)]))
    rows = torch.arange(3)
    for step in range(5):
        at = torch.tensor(lengths) + step
        close(gpt.hidden(ids[rows, at], Step(cache, at, int(at.max()) + 1)), whole[rows, at])


@torch.no_grad()
def test_what_prompts_begin_with_is_computed_once_for_all_slots():
    gpt, ids = model(), torch.randint(40, (3, 9), generator=torch.Generator().manual_seed(4))
    ids[:, :5] = ids[0, :5]
    whole, cache = gpt.hidden(ids), Cache(model(), slots=3, capacity=9)
    gpt.hidden(ids[0, :5], Prefill(cache, 0, [5], 0))
    cache.copy(0, slice(None), 5)
    close(gpt.hidden(ids[:2, 5:].flatten(), Prefill(cache, 0, [4, 4], 5)), whole[:2, 5:].flatten(0, 1))
    close(gpt.hidden(ids[2, 5:], Prefill(cache, 2, [4], 5)), whole[2, 5:])  # another, later


@torch.no_grad()
def test_a_row_that_moves_to_another_slot_goes_on_as_before():
    gpt, ids = model(), torch.randint(40, (2, 8), generator=torch.Generator().manual_seed(5))
    whole, cache = gpt.hidden(ids), Cache(model(), slots=2, capacity=8)
    gpt.hidden(torch.cat([ids[0], ids[1, :7]]), Prefill(cache, 0, [8, 7], 0))
    cache.copy(1, slice(0, 1), 7)
    close(gpt.hidden(ids[1:, 7], Step(cache, torch.tensor([7]), 8)), whole[1:, 7])


@torch.no_grad()
def test_a_cache_that_grows_keeps_what_is_in_it_and_never_has_more_room_than_it_may():
    cache = Cache(model(), slots=2, capacity=GROWTH + 5)
    assert (cache.room, cache.keys[0].shape) == (GROWTH, (2, 2, GROWTH, 12))
    for number, store in enumerate((*cache.keys, *cache.values)):
        store.copy_(torch.arange(store.numel()).view_as(store) + number)
    before = [store.clone() for store in (*cache.keys, *cache.values)]
    cache.reserve(GROWTH + 1)
    assert cache.room == GROWTH + 5
    for store, was in zip((*cache.keys, *cache.values), before, strict=True):
        assert torch.equal(store[:, :, :GROWTH], was)
        assert store.isfinite().all()
        assert store.is_contiguous()


def test_as_many_rows_as_memory_holds(monkeypatch):
    row = 2 * 3 * 24 * 16 * 4  # keys and values, layers, channels, positions, bytes
    monkeypatch.setattr(cache_module, "MEMORY", 5 * row + 1)
    assert slots_that_fit(model(), 16) == 5
    assert slots_that_fit(model(), 16 * 100) == 1
    monkeypatch.setattr(cache_module, "MEMORY", 1 << 40)
    assert slots_that_fit(model(), 16) == 128


def test_memory_that_torch_holds_and_nothing_is_in_counts_as_free(monkeypatch):
    row = 2 * 3 * 24 * 16 * 4
    sizes = {"config": model().config, "compute_dtype": torch.float32, "device": torch.device("cuda", 0)}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * row, 100 * row))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 40 * row)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 8 * row)
    assert slots_that_fit(SimpleNamespace(**sizes), 16) == 10  # a quarter of 8 + 32


@torch.no_grad()
def test_room_that_is_given_back_takes_no_key_of_a_row_that_is_left(monkeypatch):
    monkeypatch.setattr(cache_module, "GROWTH", 2)
    gpt, ids = model(), torch.randint(40, (2, 15), generator=torch.Generator().manual_seed(8))
    whole, cache = gpt.hidden(ids), Cache(model(), slots=2, capacity=CONTEXT)
    gpt.hidden(torch.cat([ids[0, :3], ids[1, :15]]), Prefill(cache, 0, [3, 15], 0))
    assert cache.room == 16
    cache.give_back(7)
    assert cache.room == 16  # half of it and no more would go
    cache.give_back(3)
    assert cache.room == 4
    for at in range(3, 9):  # and it grows again
        close(gpt.hidden(ids[:1, at], Step(cache, torch.tensor([at]), at + 1)), whole[:1, at])
