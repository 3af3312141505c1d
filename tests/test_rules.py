"""Rules of values and of settings together; which settings they are about stands in test_settings.py."""

import pytest

from ift.errors import ConfigError
from ift.rules import above, at_least, one_of, within
from ift.settings import TOGETHER, Settings


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
