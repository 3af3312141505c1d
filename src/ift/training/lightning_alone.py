"""Import Lightning without the packages that torchmetrics looks for beside it.

Lightning imports all of torchmetrics, and that imports transformers, scipy.signal and matplotlib wherever they are
installed, for metrics that training has no use for: on two cores that was 8 of the 11 seconds of `import lightning`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from types import ModuleType
from typing import Any, cast

LEFT_OUT = ("transformers", "scipy", "matplotlib", "PIL", "torchvision", "torchaudio", "nltk", "sklearn")


def import_lightning(*, alone: bool = True) -> None:
    """Import Lightning and torchmetrics, whole for other code than ours (alone=False).

    What torchmetrics did not see on its import it has not for the rest of the process.
    """
    if "torchmetrics" in sys.modules or not alone:
        import lightning
    else:
        with unseen(LEFT_OUT):
            import lightning  # noqa: F401


@contextmanager
def unseen(names: tuple[str, ...]) -> Iterator[None]:
    """In here packages that are not imported yet look as if they were not installed, to whoever is careful to ask.

    Whoever asks the way Lightning does: for the version that lightning_utilities finds, then for a module of the name.
    """
    import lightning_utilities.core.imports as asked

    hidden = [name for name in names if name not in sys.modules and importlib.util.find_spec(name)]
    version, modules = cast(Any, asked)._version, cast(dict[str, ModuleType | None], sys.modules)

    def version_of(name: str) -> str:
        if name in hidden:
            raise PackageNotFoundError(name)
        return str(version(name))

    try:
        modules.update(dict.fromkeys(hidden))  # `import NAME` then raises ModuleNotFoundError
        cast(Any, asked)._version = version_of
        yield
    finally:
        cast(Any, asked)._version = version
        for name in hidden:
            del modules[name]
        asked.package_available.cache_clear()
        asked.module_available.cache_clear()
