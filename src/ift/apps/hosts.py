"""Which requests are for this server: by the host that they name, and by the page that they come from.

A page from elsewhere that is open in the same browser can send requests here, and somebody else's DNS can point a name
of theirs here. So a request must name a host that is ours, and where it says which page it comes from, one of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from ift.errors import ConfigError, one_line

THIS_MACHINE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")  # another port: it is forwarded
PORT = re.compile(r":\d{1,5}$")


@dataclass(frozen=True)
class Hosts:
    """
    address  under which a proxy shows us ("": none does)
    names    further hosts that we have, in small letters and without a port
    """

    address: str = ""
    names: frozenset[str] = frozenset()

    def has(self, host: str) -> bool:
        """Whether a request's Host is ours: a name that someone else's DNS points here is not."""
        if THIS_MACHINE.fullmatch(host) or PORT.sub("", host.lower()) in self.names:
            return True
        return bool(self.address and host == urlsplit(self.address).netloc)

    def is_origin(self, origin: str, host: str) -> bool:
        """Whether a request is from a page of this server. A proxy may have put in a Host of its own."""
        parts = urlsplit(self.address)
        return origin in (
            f"http://{host}",
            f"https://{host}",
            *([f"{parts.scheme}://{parts.netloc}"] if parts.netloc else []),
        )


def checked_address(address: str) -> str:
    """That under which a proxy shows a page, with its last slash. Raises ConfigError for what is none."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"--address {one_line(address, 80)}: not the address of a page (https://HOST/PATH/)")
    return address.rstrip("/") + "/"
