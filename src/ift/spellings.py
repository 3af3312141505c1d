"""Settings as users of Lightning spell them, in the one spelling that the rest of `ift` reads. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ift.errors import ConfigError

PRECISIONS = {
    "auto": "auto",
    **dict.fromkeys(("fp32", "32", "32-true", "float32"), "fp32"),
    **dict.fromkeys(("bf16", "bf16-mixed", "bfloat16"), "bf16"),
    **dict.fromkeys(("fp16", "16", "16-mixed", "float16"), "fp16"),
}
OTHER_PRECISIONS = {  # Lightning's, and what is nearest to each here
    **dict.fromkeys(("bf16-true", "bf16-full"), ("weights and optimizer stay fp32", "bf16")),
    "16-true": ("weights and optimizer stay fp32", "fp16"),
    **dict.fromkeys(("64", "64-true", "fp64"), ("fp32 is the widest type here", "fp32")),
    "transformer-engine": ("Transformer Engine is not used here", "bf16"),
    "transformer-engine-float16": ("Transformer Engine is not used here", "bf16"),
}
ACCELERATORS = {"auto": "auto", "cpu": "cpu", "gpu": "gpu", "cuda": "gpu"}


def precision(given: Any, key: str) -> str:
    """auto, fp32, bf16 or fp16: of matrix products. Raises ConfigError with what to type."""
    text = str(given).lower()
    if text in OTHER_PRECISIONS:
        why, nearest = OTHER_PRECISIONS[text]
        raise ConfigError(f"{key}={given}: {why} ({key}={nearest} computes the matrix products in it)")
    return _known(given, key, PRECISIONS, "auto, fp32 (32-true), bf16 (bf16-mixed), fp16 (16-mixed)")


def accelerator(given: Any, key: str) -> str:
    """auto, cpu or gpu, which is a CUDA device."""
    if str(given).lower() == "mps":
        raise ConfigError(f"{key}={given}: losses are summed in fp64, which Apple's GPUs lack (use {key}=cpu)")
    return _known(given, key, ACCELERATORS, "auto, cpu, gpu (cuda)")


def devices(given: Any, key: str) -> str | int | list[int] | None:
    """ "auto" for all there are (also -1), how many, or the numbers of GPUs: [0,1], also as the text "0,1".

    None: as many as a launcher started, or one.
    """
    if given is None:
        return None
    wrong = ConfigError(f"{key}={given}: must be auto, a number above 0, or numbers of GPUs: [0,1]")
    if given == "auto" or str(given) == "-1":
        return "auto"
    listed = isinstance(given, list) or (isinstance(given, str) and "," in given)
    words = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    try:
        numbers = [int(word) for word in words if str(word).strip()]  # "1," is the GPU of number 1
    except (TypeError, ValueError):
        raise wrong from None
    if not listed:
        if isinstance(given, bool | float) or numbers[0] < 1:
            raise wrong
        return numbers[0]
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise wrong
    return numbers


def fast_dev_run(given: Any, key: str) -> int:
    """How many steps; 0 for a real run. true is one step."""
    if isinstance(given, bool) or given is None:
        return int(bool(given))
    if isinstance(given, int) and given >= 0:
        return given
    raise ConfigError(f"{key}={given}: must be true, false or a number of steps")


def _known(given: Any, key: str, names: Mapping[str, str], words: str) -> str:
    if str(given).lower() not in names:
        raise ConfigError(f"{key}={given}: must be one of {words}")
    return names[str(given).lower()]


SPELLINGS: dict[str, Callable[[Any, str], Any]] = {
    "trainer.precision": precision,
    "trainer.accelerator": accelerator,
    "trainer.devices": devices,
    "trainer.fast_dev_run": fast_dev_run,
    "precision": precision,  # of evaluate.py
    "accelerator": accelerator,
}


def spell(settings: Any) -> None:
    """Bring each of these in a tree of settings objects to its one spelling. Raises ConfigError for none of them."""
    for key, read in SPELLINGS.items():
        *path, last = key.split(".")
        place = settings
        for name in path:
            place = getattr(place, name, None)
        if hasattr(place, last):
            setattr(place, last, read(getattr(place, last), key))
