import pytest

from ift.nearest import OURS, WORDS, nearest
from ift.settings import EvaluateSettings, Settings, keys, unknown_key

KNOWN = set(keys(Settings))


def test_the_words_of_the_field_lead_to_keys_that_exist():
    assert set(WORDS) <= KNOWN | set(keys(EvaluateSettings))
    assert len(OURS) == sum(len(words.split()) for words in WORDS.values())  # no word leads to two


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("learning_rate", "optim.lr"), ("lr", "optim.lr"), ("optimizer.lr", "optim.lr"), ("training.lr", "optim.lr"),
        ("gradient_clip_val", "optim.clip"), ("trainer.gradient_clip_val", "optim.clip"), ("optimizer", "optim"),
        ("epochs", "trainer.max_epochs"), ("num_train_epochs", "trainer.max_epochs"), ("bs", "data.batch_size"),
        ("batch-size", "data.batch_size"), ("per_device_train_batch_size", "data.batch_size"),
        ("max_seq_length", "data.max_length"), ("fp16", "trainer.precision"), ("gpus", "trainer.devices"),
        ("trainer.accumulate_grad_batches", "trainer.accumulate"), ("wandb_project", "logger.project"),
        ("trainer.max_epoch", "trainer.max_epochs"), ("modle", "model"), ("optim.weigth_decay", "optim.weight_decay"),
        ("LR", "optim.lr"), ("gradient_checkpointing", "model.activation_checkpointing"), ("freeze", "model.freeze"),
        ("data.field.output", "data.fields.output"), ("sed", "seed"), ("outputdir", "output_dir"),
    ],
)  # fmt: skip
def test_what_was_meant_is_found(word, key):
    assert nearest(word, KNOWN) == key


@pytest.mark.parametrize("word", ["foo", "x", "mixup", "callbacks.ema", "trainer.foo", "data.fields.answer"])
def test_a_far_match_is_not_given(word):
    assert nearest(word, KNOWN) is None


def test_what_is_not_here_says_what_there_is_instead():
    assert str(unknown_key("load_in_8bit", Settings)) == (
        "load_in_8bit: no such key (weights are not quantized in training)"
    )
    assert str(unknown_key("foo", EvaluateSettings)).endswith("(ift evaluate --cfg job shows every key)")
