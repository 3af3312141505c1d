"""Rules of values and of settings together; which settings they are about stands in test_settings.py."""

import pytest

from ift.errors import ConfigError
from ift.rules import above, at_least, one_of, within
from ift.settings import TOGETHER, Settings
from tests.running import train


@pytest.mark.parametrize(
    ("rule", "right", "wrong", "words"),
    [
        (above(0), 0.1, 0, "above 0"),
        (at_least(2), 2, 1, "2 or more"),
        (within(50, 20000), 20000, 20001, "from 50 to 20,000"),
        (one_of("a", "b"), "b", "c", "one of a, b"),
    ],
)
def test_a_rule_says_what_it_asks_for(rule, right, wrong, words):
    is_right, said = rule
    assert (is_right(right), is_right(wrong), said) == (True, False, words)


def test_settings_that_do_not_go_together_are_an_error(monkeypatch, settings_of):
    """A rule gets every value by its whole key; the first that has something to say is the error."""
    rules = (lambda values: None, lambda values: f"seed={values['seed']} with {values['optim.schedule']}: no")
    monkeypatch.setitem(TOGETHER, Settings, rules)
    with pytest.raises(ConfigError, match=r"^seed=5 with cosine: no$"):
        settings_of("seed=5", "optim.schedule=cosine")


# -- the optimizer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.momentum=0.9"], "optim.momentum=0.9: optim=adamw has none (leave it out; sgd, muon have it)"),
        (["optim=sgd", "optim.beta1=0.9"], "optim.beta1=0.9: optim=sgd has none (leave it out; adamw, lion, muon"),
        (["optim=adafactor", "optim.eps=1e-8"], "optim.eps=1e-08: optim=adafactor has none (leave it out; adamw, muon"),
        (["optim=lion", "optim.beta2=null"], "optim.beta2: not set, and optim=lion needs it (add optim.beta2=... to"),
        (["optim.cooldown=0.3"], "optim.cooldown=0.3: optim.schedule=cosine has none (leave it out, or optim.schedule"),
        (["optim.schedule=wsd", "optim.warmup=0.8", "optim.cooldown=0.3"],
         "optim.cooldown=0.3: with optim.warmup=0.8 more than all steps (lower one of them)"),
        (["model.compile=true"], "model.compile=true: rows without padding cannot be compiled (add data.batching=padd"),
        (["optim.layer_decay=1.1"], "optim.layer_decay=1.1: must be from 0.1 to 1"),
        (["optim.name=adam"], "optim.name=adam: must be one of adamw, adafactor, sgd, lion, muon, adamw8bit"),
    ],
)  # fmt: skip
def test_a_setting_that_this_optimizer_or_schedule_has_not_is_an_error(settings_of, overrides, message):
    with pytest.raises(ConfigError) as refused:
        settings_of(*overrides)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "fresh", "pretrained"),
    [
        ("adamw", (3e-3, 0.1), (5e-5, 0.01)),
        ("adamw8bit", (3e-3, 0.1), (5e-5, 0.01)),
        ("muon", (3e-3, 0.1), (5e-5, 0.01)),
        ("adafactor", (3e-2, 0.01), (3e-4, 0.01)),
        ("lion", (1e-3, 0.3), (1e-5, 0.1)),
        ("sgd", (1.0, 0.01), (5e-2, 0.01)),
    ],
)
def test_each_optimizer_has_a_rate_of_its_own_for_fresh_and_for_pretrained_weights(
    settings_of, name, fresh, pretrained
):
    for words, rates in (((), fresh), (("model=gpt2-small",), pretrained)):
        optim = settings_of(f"optim={name}", *words).optim
        assert (optim.name, optim.lr, optim.weight_decay) == (name, *rates)
    assert settings_of(f"optim={name}", "optim.lr=7").optim.lr == 7


def test_it_is_one_line_before_torch(warm_without_torch, tmp_path):
    done = train("optim=sgd", "optim.eps=1e-8", f"output_dir={tmp_path}", run=warm_without_torch.run)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "ift: error: optim.eps=1e-08: optim=sgd has none (leave it out; adamw, muon, adamw8bit have it)\n"
    )
