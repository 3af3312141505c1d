"""Tokens and addresses, before anything is opened."""

import pytest

from ift.apps.serving.gate import VARIABLE, Gate, is_loopback, read_token
from ift.errors import ConfigError

TOKEN = "x" * 22


def test_a_token_is_taken_from_a_file_or_out_of_the_environment(tmp_path, monkeypatch, capsys):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    monkeypatch.setenv(VARIABLE, "y" * 30)
    assert read_token(None) == "y" * 30
    assert read_token(None) == ""  # programs that are started later do not see it
    assert read_token(file) == TOKEN
    assert capsys.readouterr().err == ""
    file.chmod(0o644)
    assert read_token(file) == TOKEN
    assert "others on this machine can read it" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "short", "with a space " * 3, "x" * 21])
def test_a_token_that_could_be_guessed_is_refused_without_being_shown(tmp_path, content):
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match="--token-file") as caught:
        read_token(file)
    assert not content or content not in str(caught.value).removeprefix(f"--token-file {file}")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(tmp_path / "nowhere")


def test_only_this_machine_is_served_without_a_token():
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.5"):
        assert is_loopback(host)
        assert not Gate.of(host, address="", token="").elsewhere
    for host in ("0.0.0.0", "192.168.1.5", "box.example", "::"):
        with pytest.raises(ConfigError, match="needs a token"):
            Gate.of(host, address="", token="")
        assert Gate.of(host, address="", token=TOKEN).elsewhere
