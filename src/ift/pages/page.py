"""Every page is one file with its own style and script, and a policy by which the browser runs and loads nothing else.

A page is a template that extends page.html.j2; macros of several pages stand in parts.html.j2, colours in palette.py.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ift.pages.palette import palette_css
from ift.text.printable import printable

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """The template NAME.html.j2 of a folder, with NAME.css and NAME.js where the folder has them.

    pictures: the page holds pictures as data URLs. served: it comes from the local server and may send requests to
    it, with the style and script that such pages share, served.css and served.js of the same folder. parts: names of
    further files whose style and script come before its own.

    All values are escaped. The policy is the second line of defence, should that ever fail: only the one style and
    the one script with these hashes count, so a template has neither style attributes nor handlers.
    """

    name: str
    folder: Path = HERE
    pictures: bool = False
    served: bool = False
    parts: tuple[str, ...] = ()

    @property
    def style(self) -> str:
        return palette_css() + (HERE / "page.css").read_text(encoding="utf-8") + self._own("css")

    @property
    def script(self) -> str:
        return self._own("js")

    @property
    def policy(self) -> str:
        parts = ["default-src 'none'", f"style-src {_hash(self.style)}"]
        parts += [f"script-src {_hash(self.script)}"] if self.script else []
        parts += ["img-src data:"] if self.pictures else []
        parts += ["connect-src 'self'"] if self.served else []
        return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])

    def render(self, **values: Any) -> str:
        """The page as HTML. Raises jinja2.UndefinedError for a value that the template uses and did not get."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([self.folder, HERE]),
            autoescape=True,  # each text from rows and models is data, never markup
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters |= {"n": lambda number: f"{number:,}", "number": number, "visible": visible}
        environment.filters |= {"printable": printable, "blocks": blocks}
        environment.globals |= {
            "style": Markup(self.style),
            "script": Markup(self.script),
            "policy": Markup(self.policy),  # no double quote in it
        }
        return environment.get_template(f"{self.name}.html.j2").render(**values)

    def _own(self, kind: str) -> str:
        names = [*(["served"] if self.served else []), *self.parts, self.name]
        files = [self.folder / f"{name}.{kind}" for name in names]
        return "".join(file.read_text(encoding="utf-8") for file in files if file.exists())


def number(value: float | None, form: str) -> str:
    """A number as format() writes it, or a dash."""
    return "–" if value is None else format(value, form)


def visible(text: str) -> str:
    """As `printable`, with newlines marked."""
    return printable(text).replace("\n", "↵\n")


def blocks(text: str, longest: int) -> list[tuple[bool, str]]:
    """A text in pieces that are (is it code?, text): code stands between lines of three backquotes, as in Markdown.

    A text longer than `longest` characters loses its end, and says how much.
    """
    whole, text = len(text), printable(text[:longest])
    pieces, end = [], 0
    for fence in re.finditer(r"^```[^\n`]*\n(.*?)(?:^```[^\S\n]*$|\Z)", text, re.MULTILINE | re.DOTALL):
        pieces += [(False, text[end : fence.start()].strip("\n")), (True, fence[1].rstrip("\n"))]
        end = fence.end()
    pieces.append((False, text[end:].strip("\n") if pieces else text))
    if whole > longest:
        pieces.append((False, f"… {whole - longest:,} more characters"))
    return [piece for piece in pieces if piece[1]]


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
