"""What is refused before a model is opened: ports, names, tokens."""

import socket
import sys

import pytest

from ift.apps.serving.run import listen
from ift.cli import main
from ift.errors import MachineError


def test_a_port_that_is_taken_is_told_before_models_are_opened():
    taken = pytest.raises(MachineError, match="--port 0 takes any free one")
    with socket.create_server(("127.0.0.1", 0)) as other, taken:
        listen("127.0.0.1", other.getsockname()[1])
    with pytest.raises(MachineError, match="--port 0"):
        listen("127.0.0.1", 70_000)
    listen("127.0.0.1", 0).close()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["RUN", "RUN"], "two models are called one (NAME=RUN gives one of them another name)"),
        (["a=RUN", "a=RUN/model"], "two models are called a (NAME=RUN gives one of them another name)"),
        (["a b=RUN"], "'a b' is no name for a model (NAME=RUN gives another)"),
        (["RUN/nothing"], "neither a run with a model nor a model folder"),
        (["RUN", "--host", "0.0.0.0"], "it needs a token (--token-file FILE, or IFT_SERVE_TOKEN)"),
        (["RUN", "--token-file", "RUN/nothing"], "cannot be read: No such file or directory"),
        (["RUN", "--address", "nowhere"], "not the address of a page (https://HOST/PATH/)"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(runs, words, line, monkeypatch, capsys):
    given = [word.replace("RUN", str(runs[0])) for word in words]
    monkeypatch.setattr(sys, "argv", ["ift", "serve", *given])
    assert main() == 2
    error = capsys.readouterr().err
    assert error.startswith("ift: error: ")
    assert error.count("\n") == 1
    assert line in error
