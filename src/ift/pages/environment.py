"""How templates of pages are read: everything is escaped, and a value that is not there is an error."""

from __future__ import annotations

from pathlib import Path

import jinja2

from ift.data.show import printable


def page_environment(*folders: Path) -> jinja2.Environment:
    """For every page: autoescape, since each text from rows and models is data, never markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"n": lambda number: f"{number:,}", "visible": visible}
    return environment


def visible(text: str) -> str:
    """As `printable`, with newlines marked."""
    return printable(text).replace("\n", "↵\n")
