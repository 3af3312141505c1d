"""Whose host a request names, and whose page it is from."""

import pytest

from ift.apps.hosts import Hosts, checked_address
from ift.errors import ConfigError


def test_hosts_are_this_machines_under_any_port_and_those_that_were_given():
    plain, known = Hosts(), Hosts("https://lab.example/ift/", frozenset({"box"}))
    for host in ("localhost", "localhost:8644", "127.0.0.1:1", "[::1]:80"):
        assert plain.has(host)
        assert known.has(host)
    for host in ("lab.example", "box", "BOX:8644"):
        assert known.has(host)
        assert not plain.has(host)
    for host in ("", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost:x", "box.evil"):
        assert not known.has(host)


def test_a_page_is_ours_under_the_host_that_was_asked_or_under_the_proxys():
    hosts = Hosts("https://lab.example/ift/")
    assert hosts.is_origin("http://localhost:8644", "localhost:8644")
    assert hosts.is_origin("https://lab.example", "localhost:8644")
    for origin in ("http://localhost:1", "http://evil.example", "null", "", "http://lab.example"):
        assert not hosts.is_origin(origin, "localhost:8644")


@pytest.mark.parametrize("address", ["lab.example", "ftp://lab.example", "https://", "https://lab.example/?a"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="--address"):
        checked_address(address)
    assert checked_address("https://lab.example/ift") == "https://lab.example/ift/"
