"""Pages with a script: one file with its own style and script, and a policy by which the browser runs nothing else."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ift.pages.environment import page_environment

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Page:
    """A template and its script, NAME.html.j2 and NAME.js of a folder, with answers.css.

    talks: the page may talk to the server that it came from, by the folder's talk.js. All values are escaped; the
    policy is what stands between a mistake in that and a browser: only the two texts with these hashes are style and
    script.
    """

    name: str
    folder: Path = HERE
    talks: bool = False

    @property
    def style(self) -> str:
        return (HERE / "answers.css").read_text(encoding="utf-8")

    @property
    def script(self) -> str:
        names = [*(["talk"] if self.talks else []), self.name]
        return "".join((self.folder / f"{name}.js").read_text(encoding="utf-8") for name in names)

    @property
    def policy(self) -> str:
        parts = ["default-src 'none'", f"style-src {_hash(self.style)}", f"script-src {_hash(self.script)}"]
        parts += ["connect-src 'self'"] if self.talks else []
        return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])

    def render(self, **values: Any) -> str:
        environment = page_environment(self.folder, HERE)
        own = {"style": Markup(self.style), "script": Markup(self.script), "policy": self.policy}
        environment.globals |= own
        return environment.get_template(f"{self.name}.html.j2").render(**values)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
