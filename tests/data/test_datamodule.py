import dataclasses

import numpy as np
import pytest
import torch

from ift.data.contract.examples import Example
from ift.data.datamodule import Limits, SFTDataModule


def examples(*lengths):
    """Row 1 has as many tokens as the first length says, and so on; every token is the number of its row."""
    return [
        Example(np.full(n, row, dtype=np.int32), np.ones(n, dtype=bool), row=row)
        for row, n in enumerate(lengths, start=1)
    ]


@pytest.fixture
def datamodule(settings_of):
    def datamodule(accumulate=1, limits=Limits(), **changes):  # noqa: B008
        settings = dataclasses.replace(settings_of("data.batch_size=2").data, **changes)
        parts = {"train": examples(5, 1, 3, 2, 4), "val": examples(9, 7, 8), "test": examples(6)}
        return SFTDataModule(parts, settings, end_of_text=99, accumulate=accumulate, seed=1, limits=limits)

    return datamodule


def test_training_takes_each_row_once_and_a_step_holds_every_micro_batch(datamodule):
    module = datamodule(accumulate=2)
    batches = list(module.train_dataloader())
    assert sorted(row for batch in batches for row in batch.rows) == [1, 2, 3, 4, 5]
    assert [len(batch.rows) for batch in batches] == [2, 2, 1, 0]
    assert [module.steps_per_epoch(world) for world in (1, 2)] == [2, 1]


def test_training_has_another_order_in_each_epoch_and_the_same_one_each_time(datamodule):
    def order(epoch):
        loader = datamodule().train_dataloader()
        loader.sampler.set_epoch(epoch)
        return [batch.rows for batch in loader]

    assert order(0) == order(0)
    assert len({str(order(epoch)) for epoch in range(4)}) > 1


def test_validation_and_test_take_every_row_shortest_first(datamodule):
    module = datamodule(accumulate=2)  # which is for training alone
    assert [batch.rows for batch in module.val_dataloader()] == [[2, 3], [1]]
    (loader,) = module.test_dataloader()  # and a second one only where test rows leak
    assert [batch.rows for batch in loader] == [[1]]


def test_a_batch_is_padded_to_its_own_longest_row_or_to_pad_to(datamodule):
    def shapes(**changes):
        return [tuple(batch.input_ids.shape) for batch in datamodule(batching="padded", **changes).val_dataloader()]

    assert shapes() == [(2, 8), (1, 9)]
    assert shapes(pad_to=12) == [(2, 12), (1, 12)]


def test_without_padding_a_batch_is_as_long_as_its_rows(datamodule):
    assert [batch.lengths for batch in datamodule().val_dataloader()] == [[7, 8], [9]]
    assert [tuple(batch.input_ids.shape) for batch in datamodule().val_dataloader()] == [(15,), (9,)]


def test_drop_last_is_for_training_alone(datamodule):
    module = datamodule(drop_last=True)
    assert sum(len(batch.rows) for batch in module.train_dataloader()) == 4
    assert sum(len(batch.rows) for batch in module.val_dataloader()) == 3
    assert module.steps_per_epoch(1) == 2


def test_the_longest_batch_is_of_the_longest_training_rows(datamodule):
    assert datamodule().longest_batch().rows == [1, 5]
    assert datamodule().longest_batch().lengths == [5, 4]


def test_the_untuned_model_is_measured_on_validation_rows_and_as_many_training_rows(datamodule):
    val, train = datamodule().baseline_dataloaders()
    assert sorted(row for batch in val for row in batch.rows) == [1, 2, 3]
    assert sorted(row for batch in train for row in batch.rows) == [1, 2, 3]


def test_workers_bring_the_same_batches(datamodule):
    for here, there in zip(datamodule().train_dataloader(), datamodule(num_workers=1).train_dataloader(), strict=True):
        assert here.rows == there.rows
        assert torch.equal(here.targets, there.targets)


@pytest.mark.parametrize(
    ("limit", "accumulate", "steps", "rows"),
    [(None, 1, 3, [2, 2, 1]), (2, 1, 2, [2, 2]), (0.34, 1, 1, [2]), (9, 1, 3, [2, 2, 1]), (1, 2, 1, [2, 2])],
)
def test_a_limit_ends_each_epoch_after_so_many_batches_in_whole_steps(datamodule, limit, accumulate, steps, rows):
    """5 rows are 3 batches of 2; with two micro-batches a step, one batch is rounded up to both."""
    module = datamodule(accumulate=accumulate, limits=Limits(train=limit))
    assert module.steps_per_epoch(1) == steps
    for epoch in range(2):
        loader = module.train_dataloader()
        loader.sampler.set_epoch(epoch)
        assert [len(batch.rows) for batch in loader] == rows


def test_a_limit_of_validation_takes_rows_from_the_front_not_the_shortest(datamodule):
    """Rows of 9, 7 and 8 tokens, batches of 2: the first batch is rows 1 and 2, the shorter one before."""
    module = datamodule(limits=Limits(val=1, test=0))
    assert [batch.rows for batch in module.val_dataloader()] == [[2, 1]]
    assert [list(loader) for loader in module.test_dataloader()] == [[]]
    assert [example.row for example in datamodule(limits=Limits(val=0.5)).used("val")] == [1, 2]
    assert (
        module.shortened(1) == "limits    3 of 3 training steps in an epoch, 2 of 3 validation rows, 0 of 1 test rows"
    )
    assert datamodule().shortened(1) is None
