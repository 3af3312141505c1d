"""The Hugging Face Hub: a folder as a model repository there. The one door to it.

Nothing is published by surprise: a new repository is private, an existing public one is refused unless public is asked
for, and all of this is looked at before the export is made. The token is the one that huggingface_hub finds (HF_TOKEN,
or `hf auth login`); it is read by that library alone, and stands in no line that is printed or written here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.errors import ConfigError, MachineError, missing_extra, one_line
from ift.export.card import HUB_NAME


@dataclass(frozen=True)
class Destination:
    """A repository that may be written."""

    api: Any
    name: str  # with whose it is: me/my-model
    private: bool
    is_new: bool

    @classmethod
    def look_at(cls, name: str, *, public: bool) -> Destination:
        """Raises ConfigError where the name is none, or the repository is public and that was not asked for.

        Raises MachineError where the Hub cannot be reached or does not know the token.
        """
        if not HUB_NAME.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", ".", "-")):
            raise ConfigError(f"--push {name}: no name of a repository (as in me/my-model)")
        try:
            import huggingface_hub as hub
            from huggingface_hub.errors import RepositoryNotFoundError
            from huggingface_hub.utils.tqdm import disable_progress_bars
        except ImportError as error:
            raise missing_extra("huggingface_hub", "hub") from error
        if not sys.stderr.isatty():
            disable_progress_bars()
        if hub.get_token() is None:
            raise MachineError("--push: no token for the Hub (hf auth login, or set HF_TOKEN)")
        api = hub.HfApi()
        with _plain_errors(name):
            user = api.whoami()["name"]  # and so the token is known to be one
            name = name if "/" in name else f"{user}/{name}"
            try:
                there = api.model_info(name)
            except RepositoryNotFoundError:  # or one that this token may not see: then it cannot be made
                return cls(api, name, private=not public, is_new=True)
        if not (there.private or public):
            raise ConfigError(f"--push {name}: is public on the Hub (--public says that this is meant)")
        return cls(api, name, private=bool(there.private), is_new=False)

    def push(self, folder: Path, message: str) -> str:
        """Upload every file of a folder in one commit; the address of the repository."""
        from huggingface_hub import CommitOperationAdd

        with _plain_errors(self.name):
            if self.is_new:
                self.api.create_repo(self.name, private=self.private, exist_ok=False)
            files = sorted(path for path in folder.iterdir() if path.is_file())
            added = [CommitOperationAdd(path.name, path) for path in files]
            self.api.create_commit(self.name, added, commit_message=message)
        return f"{self.api.endpoint}/{self.name}"


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """What goes wrong with the Hub as one line that says what to do, and never holds the token."""
    import huggingface_hub as hub
    from huggingface_hub import errors
    from huggingface_hub.errors import HfHubHTTPError

    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)  # of the library that this release asks with
    advice = {
        401: "hf auth login, or another HF_TOKEN",
        403: "a token that may write there",
        409: "another name: somebody has just taken it",
        429: "wait, and push again",
    }
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        words = f"the Hub answers {status}: {error.server_message or 'no reason given'}"
        raise MachineError(
            _without_token(f"--push {name}: {words}", hub) + f" ({advice.get(status, 'push again')})"
        ) from None
    except (OSError, http_error) as error:
        words = f"--push {name}: {type(error).__name__}: {error}"
        raise MachineError(_without_token(words, hub) + f" (is {hub.constants.ENDPOINT} reached from here?)") from None
    except ValueError as error:  # what the Hub's own package refuses, the front matter of README.md among it
        raise MachineError(_without_token(f"--push {name}: {type(error).__name__}: {error}", hub)) from None


def _without_token(text: str, hub: Any) -> str:
    token = hub.get_token()
    return one_line(text.replace(token, "***") if token else text, 220)
