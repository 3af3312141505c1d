"""What the cross-entropy does in training alone: smoothed labels, and noise on the embeddings."""

import math

import numpy as np
import pytest
import torch

from ift.data.batches import collate_padded, collate_unpadded
from ift.data.contract.examples import Example
from ift.training.objectives import CrossEntropy, neftune_noise
from tests.training.small_run import EndAt, Killed, compare, train

END, WIDTH = 49, 2000


@pytest.fixture
def batches(make_examples):
    """The same 6 rows padded and unpadded."""
    rows = make_examples(6)
    return collate_padded(rows, end_of_text=END), collate_unpadded(rows, end_of_text=END)


def test_both_ways_of_a_batch_smooth_alike_and_evaluation_never(make_model, batches):
    model, plain, smooth = make_model(), CrossEntropy(), CrossEntropy(label_smoothing=0.2)
    losses = [smooth(model.train(), batch).loss.item() for batch in batches]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(plain(model, batches[0]).loss.item(), rel=2e-5)
    for batch in batches:
        assert torch.equal(smooth(model.eval(), batch).loss, plain(model, batch).loss)


def test_rows_that_begin_in_two_ways_have_the_loss_and_gradient_of_padded_ones(make_model):
    """Two tokens of all, then ten of the even rows and nine of the odd ones."""
    random, model = np.random.default_rng(0), make_model(context_length=32)
    rows = []
    for number in range(5):
        own = random.integers(0, 48, 4 + number)
        shared = np.concatenate([[7, 8], np.arange(20, 30) if number % 2 else np.arange(30, 39)])
        ids = np.concatenate([shared, own]).astype(np.int32)
        rows.append(Example(ids, np.arange(len(ids)) >= len(shared) + 2))
    flat = collate_unpadded(rows, end_of_text=END, share_prefix=True)
    assert flat.parents == [-1, 0, 1, 0, 3, 1, 3, 1]
    found = []
    for batch in (collate_padded(rows, end_of_text=END), flat):
        model.zero_grad()
        loss = CrossEntropy()(model, batch).loss
        loss.backward()
        found.append([loss, *(p.grad.to_dense() for p in model.parameters())])
    for padded, shared in zip(*found, strict=True):
        torch.testing.assert_close(shared, padded, atol=2e-6, rtol=1e-6)


def test_noise_is_as_large_as_a_row_is_short(batches):
    """Uniform in plus and minus alpha / sqrt(L C): its largest of 2,000 numbers is close to that, in each row."""
    padded, flat = batches
    for batch in batches:
        noise = neftune_noise(batch, WIDTH, alpha=5.0)
        rows = noise if batch.lengths is None else noise.split(flat.row_tokens)
        for row, tokens in zip(rows, padded.row_tokens, strict=True):
            limit = 5 / math.sqrt(tokens * WIDTH)
            assert 0.99 * limit < row.abs().max() <= limit * (1 + 1e-6)
            assert row.mean().abs() < 0.05 * limit


def test_noise_is_drawn_anew_by_the_random_state_and_never_in_evaluation(make_model, batches):
    model, plain, noisy = make_model(), CrossEntropy(), CrossEntropy(neftune_alpha=5.0)
    for batch in batches:
        torch.manual_seed(1)
        first, second = noisy(model.train(), batch).loss, noisy(model, batch).loss
        torch.manual_seed(1)
        assert torch.equal(noisy(model, batch).loss, first)
        assert not torch.equal(first, second)
        assert torch.equal(noisy(model.eval(), batch).loss, plain(model, batch).loss)
    blank = [collate([], end_of_text=END) for collate in (collate_padded, collate_unpadded)]
    assert [noisy(model.train(), batch).loss.item() for batch in blank] == [0, 0]


def test_rows_with_noise_share_no_prefix(make_data):
    rows = [Example(np.arange(8, dtype=np.int32), np.arange(8) >= 5)] * 2
    with pytest.raises(ValueError, match="share a prefix"):
        neftune_noise(collate_unpadded(rows, end_of_text=END, share_prefix=True), 8, 5.0)
    assert make_data(rows, batch_size=2).longest_batch().prefix == 4
    assert make_data(rows, batch_size=2, noise=5.0).longest_batch().prefix == 0


def test_a_run_with_both_goes_on_bit_for_bit(tmp_path):
    optim = {"neftune_alpha": 5.0, "label_smoothing": 0.1}
    (tmp_path / "whole").mkdir(), (tmp_path / "ended").mkdir()
    whole = train(tmp_path / "whole", optim=optim)
    with pytest.raises(Killed):
        train(tmp_path / "ended", end=EndAt("on_train_batch_end", 11), optim=optim)
    assert compare(whole, train(tmp_path / "ended", seed=99, optim=optim)) == []
