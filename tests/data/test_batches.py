import numpy as np
import pytest
import torch

from ift.data.batches import IGNORE_INDEX, StepSampler, collate_padded, collate_unpadded
from ift.data.contract.examples import Example

P = 50256  # end-of-text of GPT-2: the padding, and the last target of a whole response
X = IGNORE_INDEX


def example(ids, *, prompt=0, ends=True, row=0):
    """Token ids of which the first `prompt` are not supervised."""
    supervised = np.arange(len(ids)) >= prompt
    return Example(np.array(ids, dtype=np.int32), supervised, ends=ends, row=row)


def test_the_worked_example_of_the_seed_chapter():
    batch = collate_padded([example([0, 1, 2, 3, 4]), example([5, 6]), example([7, 8, 9])], end_of_text=P)
    assert batch.input_ids.tolist() == [
        [0, 1, 2, 3, 4],
        [5, 6, P, P, P],
        [7, 8, 9, P, P],
    ]
    assert batch.targets.tolist() == [
        [1, 2, 3, 4, P],
        [6, P, X, X, X],
        [8, 9, P, X, X],
    ]
    assert batch.input_ids.dtype == batch.targets.dtype == torch.int64
    assert batch.tokens == 5 + 2 + 3


def test_targets_keep_the_response_and_its_end_and_nothing_else():
    batch = collate_padded([example([10, 11], prompt=1), example([20, 21, 22, 23], prompt=3)], end_of_text=P)
    assert batch.input_ids.tolist() == [[10, 11, P, P], [20, 21, 22, 23]]
    assert batch.targets.tolist() == [
        [11, P, X, X],
        [X, X, 23, P],
    ]


def test_an_end_of_text_id_inside_the_text_is_a_token_like_any_other():
    batch = collate_padded(
        [example([5, P, 6], prompt=1), example([P, 7, P], prompt=2), example([1, 2, 3, 4])], end_of_text=P
    )
    assert batch.targets.tolist()[:2] == [
        [P, 6, P, X],
        [X, P, P, X],
    ]


def test_a_response_that_was_cut_has_no_end_to_learn():
    assert collate_padded([example([1, 2, 3], prompt=1, ends=False)], end_of_text=P).targets.tolist() == [[2, 3, X]]


def test_without_padding_rows_stand_one_after_the_other_with_the_same_targets():
    rows = [example([10, 11], prompt=1, row=7), example([20, 21, 22, 23], prompt=3, row=8)]
    batch = collate_unpadded(rows, end_of_text=P)
    assert batch.input_ids.tolist() == [10, 11, 20, 21, 22, 23]
    assert batch.targets.tolist() == [11, P, X, X, 23, P]
    assert batch.supervised.tolist() == [0, 1, 4, 5]
    assert (batch.lengths, batch.prefix, batch.rows, batch.tokens) == ([2, 4], 0, [7, 8], 6)


def test_what_rows_begin_with_stands_once():
    rows = [example([1, 2, 3, 4, 10], prompt=4), example([1, 2, 3, 5, 20, 21], prompt=5)]
    batch = collate_unpadded(rows, end_of_text=P, share_prefix=True)
    assert batch.input_ids.tolist() == [1, 2, 3, 4, 10, 5, 20, 21]
    assert batch.targets.tolist() == [X, X, X, 10, P, X, 21, P]
    assert (batch.lengths, batch.prefix, batch.tokens) == ([2, 3], 3, 5 + 6)


def test_what_some_rows_go_on_with_stands_once_before_the_first_of_them():
    """Rows 0 and 2 go on after the 1 of all with 11 to 18; rows 1 and 3 with 31 to 37, fewer than are worth it."""
    first, second = list(range(11, 19)), list(range(31, 38))
    rows = [
        example([1, *first, 2, 3], prompt=10),
        example([1, *second, 4], prompt=8),
        example([1, *first, 5], prompt=10),
        example([1, *second, 6, 7], prompt=9),
    ]
    batch = collate_unpadded(rows, end_of_text=P, share_prefix=True)
    assert batch.input_ids.tolist() == [1, *first, 2, 3, *second, 4, 5, *second, 6, 7]
    assert (batch.lengths, batch.parents, batch.prefix) == ([1, 8, 2, 8, 1, 9], [-1, 0, 1, 0, 1, 0], 1)
    assert batch.targets[batch.supervised].tolist() == [3, P, 4, P, P, 7, P]
    without = example([*first, 2, 3], prompt=9)
    batch = collate_unpadded([rows[1], without, without], end_of_text=P, share_prefix=True)
    assert batch.input_ids.tolist() == [1, *second, 4, *first, 2, 3, 2, 3]
    assert (batch.lengths, batch.parents, batch.prefix) == ([9, 8, 2, 2], [-1, -1, 1, 1], 0)


@pytest.mark.parametrize(
    ("rows", "prefix"),
    [
        (
            [example([1, 2, 3, 4, 5], prompt=4), example([1, 2, 3, 4, 6], prompt=3)],
            2,
        ),  # token 3 of the second is a target
        (
            [example([1, 2, 3, 4, 5], prompt=5), example([1, 2, 3, 4, 5], prompt=5)],
            4,
        ),  # the end is said from the last one
        ([example([1, 2, 3, 4, 5], prompt=5), example([1, 2], prompt=2)], 1),
        ([example([1, 2, 3], prompt=3), example([4, 2, 3], prompt=3)], 0),
        ([example([1, 2, 3]), example([1, 2, 3])], 0),  # the prompt bears a loss: nothing is shared
        ([example([1, 2, 3], prompt=3)], 0),  # with whom?
    ],
)
def test_a_shared_prefix_holds_no_target_and_leaves_each_row_a_token(rows, prefix):
    assert collate_unpadded(rows, end_of_text=P, share_prefix=True).prefix == prefix
    assert collate_unpadded(rows, end_of_text=P).prefix == 0


def test_the_targets_are_the_same_with_and_without_padding():
    random = np.random.default_rng(0)
    for _ in range(50):
        rows = [
            example(random.integers(0, 9, n).tolist(), prompt=int(random.integers(0, n + 1)), ends=bool(n % 2))
            for n in random.integers(1, 12, size=5)
        ]
        padded, unpadded = (collate(rows, end_of_text=P) for collate in (collate_padded, collate_unpadded))
        real = torch.arange(padded.input_ids.shape[1]) < torch.tensor(unpadded.lengths)[:, None]
        assert torch.equal(padded.input_ids[real], unpadded.input_ids)
        assert torch.equal(padded.targets[real], unpadded.targets)
        for batch in (padded, unpadded):
            assert (batch.targets.flatten()[batch.supervised] != X).all()
            assert len(batch.supervised) == sum(row.targets for row in rows)


def test_pad_to_is_a_least_width_and_cuts_nothing():
    wide = collate_padded([example([1, 2])], end_of_text=P, pad_to=4)
    assert wide.input_ids.tolist() == [[1, 2, P, P]]
    assert wide.targets.tolist() == [[2, P, X, X]]
    assert collate_padded([example([1, 2, 3])], end_of_text=P, pad_to=2).input_ids.tolist() == [[1, 2, 3]]


def test_no_examples_give_a_blank_batch_that_weighs_nothing():
    batch = collate_padded([], end_of_text=P)
    assert (batch.input_ids.tolist(), batch.targets.tolist(), batch.rows, batch.tokens) == ([[P]], [[X]], [], 0)


def test_a_batch_knows_the_numbers_of_its_rows():
    assert collate_padded([example([1, 2], row=17), example([3], row=4)], end_of_text=P).rows == [17, 4]


def test_the_number_of_targets_is_what_the_examples_say():
    examples = [example([1, 2, 3], prompt=2), example([1, 2, 3], prompt=1, ends=False), example([1, 2], prompt=0)]
    batch = collate_padded(examples, end_of_text=P)
    assert [e.targets for e in examples] == [2, 2, 2]
    assert (batch.targets != X).sum(dim=1).tolist() == [2, 2, 2]


SHAPES = [  # rows, batch_size, accumulate, world
    (10, 3, 1, 1),
    (10, 2, 2, 1),
    (10, 2, 2, 2),
    (3, 2, 2, 2),  # fewer rows than one step takes
    (16, 2, 2, 2),
    (1, 4, 3, 2),
    (935, 8, 4, 3),
]


def samplers(rows, batch_size, accumulate, world, **more):
    options = {"seed": 123, **more}
    return [
        StepSampler(rows, batch_size=batch_size, accumulate=accumulate, rank=rank, world=world, **options)
        for rank in range(world)
    ]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [123, None])
def test_each_row_is_seen_exactly_once_an_epoch_on_any_number_of_ranks(shape, seed):
    seen = [row for sampler in samplers(*shape, seed=seed) for batch in sampler for row in batch]
    assert sorted(seen) == list(range(shape[0]))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_rank_has_as_many_batches_and_every_step_the_same_number_of_them(shape):
    rows, batch_size, accumulate, world = shape
    for sampler in samplers(*shape):
        batches = list(sampler)
        assert len(batches) == len(sampler) == sampler.steps * accumulate
        assert sampler.steps == -(-rows // (batch_size * accumulate * world))
        assert all(len(batch) <= batch_size for batch in batches)


def test_a_step_is_the_same_rows_however_it_is_divided():
    def steps(batch_size, accumulate, world):
        ranks = [list(sampler) for sampler in samplers(37, batch_size, accumulate, world)]
        windows = range(0, len(ranks[0]), accumulate)
        return [{row for rank in ranks for batch in rank[w : w + accumulate] for row in batch} for w in windows]

    whole = steps(8, 1, 1)
    assert [len(rows) for rows in whole] == [8, 8, 8, 8, 5]
    assert steps(4, 2, 1) == steps(4, 1, 2) == steps(2, 2, 2) == steps(1, 8, 1) == whole


def test_the_last_step_takes_what_is_left_in_short_and_empty_batches():
    (sampler,) = samplers(5, 2, 2, 1, seed=None)
    assert list(sampler) == [[0, 1], [2, 3], [4], []]


def test_drop_last_leaves_the_rows_that_fill_no_step():
    (sampler,) = samplers(11, 2, 2, 1, seed=None, drop_last=True)
    assert list(sampler) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    def order(seed, epoch, **shape):
        sampler = StepSampler(100, **{"batch_size": 8, **shape}, seed=seed)
        sampler.set_epoch(epoch)
        torch.rand(1)  # what else draws from torch's generator changes nothing
        return sampler.order()

    assert order(1, 0) == order(1, 0) == order(1, 0, batch_size=2, accumulate=3, rank=1, world=2)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    before = torch.random.get_rng_state()
    StepSampler(100, batch_size=8, seed=1).order()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_steps_that_were_taken_are_left_out_of_one_epoch_alone():
    """13 rows, 2 x 2 a step: 4 steps of 2 micro-batches. Begun in epoch 3 after 2 steps, the first 4 are left out."""
    sampler = StepSampler(13, batch_size=2, accumulate=2, seed=5)
    epochs = {}
    for epoch in (3, 4):
        sampler.set_epoch(epoch)
        epochs[epoch] = list(sampler)
    sampler.begin_at(3, 2)
    assert list(sampler) == epochs[3][4:]
    assert len(sampler) == 8  # of a whole epoch
    sampler.set_epoch(4)
    assert list(sampler) == epochs[4]
