"""Pages with a script: one file with its own style and script, and a policy by which the browser runs nothing else."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ift.data.page import page_environment

HERE = Path(__file__).parent


def render(template: str, *, script: str, folder: Path = HERE, connect: bool = False, **values: Any) -> str:
    """A template of `folder`, with answers.css and a script of `folder`.

    connect: the page may talk to the server that it came from. All values are escaped; the policy is what stands
    between a mistake in that and a browser: only the two texts with these hashes are style and script.
    """
    style, code = (HERE / "answers.css").read_text(encoding="utf-8"), (folder / script).read_text(encoding="utf-8")
    environment = page_environment(folder, HERE)
    environment.globals |= {"style": Markup(style), "script": Markup(code), "policy": policy(style, code, connect)}
    return environment.get_template(template).render(**values)


def policy(style: str, script: str, connect: bool) -> str:
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        f"connect-src {chr(39)}{'self' if connect else 'none'}{chr(39)}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
