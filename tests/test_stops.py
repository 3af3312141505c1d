"""Signals: before training the first one ends the process, in training only a flag goes up, where work allows it."""

import os
import signal

import pytest

from ift import stops
from ift.errors import Stopped


@pytest.mark.parametrize("number", stops.SIGNALS, ids=lambda number: number.name)
def test_before_training_a_signal_stops_the_process(number):
    before = signal.getsignal(number)
    words = rf"stopped by {number.name} before training began \(type the command again\)"
    with pytest.raises(Stopped, match=words), stops.listening():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_in_training_it_is_asked_for_and_comes_where_it_is_checked():
    with stops.listening(), stops.deferred("go on with: X"):
        stops.check("now")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stops.asked == "SIGTERM"
        with stops.held():  # one rank alone
            stops.check("now")
        with pytest.raises(Stopped, match=r"^stopped by SIGTERM after step 3 \(go on with: X\)$"):
            stops.check("after step 3")
    assert Stopped.exit_code == 75
    with stops.listening():
        assert stops.asked is None


def test_an_error_handler_for_errors_does_not_take_a_stop_for_one():
    assert not issubclass(Stopped, Exception)
