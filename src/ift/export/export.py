"""`ift export`: a run's best model as a folder for other programs, written beside its name and put in place whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.artifacts.adapter_folder import WEIGHTS, base_of
from ift.errors import ConfigError, IftError, WeightsError
from ift.export import gguf_file, hugging_face, llama_cpp
from ift.export.any_gguf import beyond_windows, find_converter, is_own, write_any_gguf
from ift.export.card import card
from ift.export.hub import Destination
from ift.export.ollama import modelfile, ollama_name
from ift.export.peft_folder import refuse_no_adapter, write_peft
from ift.export.same_answers import Compared, OwnAnswers, Transformers
from ift.export.source import RunModel
from ift.progress import progress
from ift.run import RunFolder, write_text
from ift.sealed import MANIFEST, read_manifest, recover_folder, remove_folder, replace_folder, seal

DTYPES = {"hf": tuple(hugging_face.DTYPES), "peft": ("fp32",), "gguf": (*gguf_file.DTYPES, *llama_cpp.QUANTIZED)}
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
PLAIN = "q8_0, fp16 and the wider types need nothing"


@dataclass(frozen=True)
class Exported:
    """What was done, for a person to read; and whether every program that was asked answers as the run's model does."""

    lines: list[str]
    same: bool


def export(
    run: RunFolder,
    to: str,
    *,
    dtype: str = "fp32",
    output: Path | None = None,
    force: bool = False,
    scores: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    license: str | None = None,
    prove: int = 0,
    push: str | None = None,
    public: bool = False,
    untied: bool = False,
    four_bits: bool = False,
) -> Exported:
    """Write the folder, RUN/export/TO-DTYPE unless output names another.

    force   replace an earlier export of the same name; any other folder is never replaced
    scores  gives the run's numbers with their intervals, for the card
    prove   test rows that other programs are asked from the export, 0 for none: the folder is written whatever comes of
            it, but never pushed where an answer is another
    push    a repository on the Hub, private unless public
    untied, four_bits   as RunModel has them

    Raises ConfigError, WeightsError for a damaged model, MachineError where a package or program is missing or the Hub
    cannot be written: the folder then stays.
    """
    if dtype not in DTYPES[to]:
        raise ConfigError(f"--dtype {dtype}: must be one of {', '.join(DTYPES[to])} for --to {to}")
    if license is not None and not LICENSE.fullmatch(license):
        raise ConfigError(f"--license {license}: no name of a licence as the Hub has them (apache-2.0, mit, other)")
    if public and not push:
        raise ConfigError("--public: belongs to --push NAME")
    quantizer = None
    if to == "gguf":
        gguf_file.gguf_package()
        if dtype in llama_cpp.QUANTIZED:
            quantizer = llama_cpp.needed("llama-quantize", why=f"--dtype {dtype}", advice=PLAIN)
        if prove:
            llama_cpp.needed("llama-server", why="--prove", advice="--to hf --prove asks transformers")
    folder = Path(os.path.abspath(output or run.path / "export" / f"{to}-{dtype}"))  # "." has a name too
    if folder.is_relative_to(run.model.absolute()):
        raise ConfigError(f"{folder}: inside the run's own model (choose another --output)")
    refuse_to_replace(folder, force=force)
    destination = Destination.look_at(push, public=public) if push else None
    recover_folder(folder)
    source = RunModel.open(run, untied=untied, four_bits=four_bits)
    if to == "peft":
        refuse_no_adapter(source, prove)
    if to == "gguf":
        find_converter(source)
    file = {"gguf": f"model-{dtype}.gguf", "peft": WEIGHTS}.get(to, "model.safetensors")
    proof: list[Compared] = []
    not_tried: list[str] = []
    with _beside(folder) as partial:
        with progress("exporting", 4 * source.parameters, "MB", scale=1e6) as advance:
            if to == "hf":
                hugging_face.write_hugging_face(source, partial, dtype, advance)
            elif to == "peft":
                write_peft(source, partial)
            elif quantizer:
                whole = partial / "model-fp32.gguf"
                write_any_gguf(source, whole, "fp32", advance)
                llama_cpp.quantize(quantizer, whole, partial / file, dtype)
                whole.unlink()
            else:
                write_any_gguf(source, partial / file, dtype, advance)
        if to == "gguf":
            write_text(partial / "Modelfile", modelfile(source, file))
        if prove:
            proof, not_tried = _compared(source, partial, to, dtype, file, rows=prove)
        place = destination.name if destination else "FOLDER"
        told = [compared.summary for compared in proof]
        text = card(source, to=to, dtype=dtype, file=file, scores=scores(), license=license, place=place, proof=told)
        write_text(partial / "README.md", text)
        seal(partial, {"export": to, "dtype": dtype, "run": source.name, "prompt": source.template.hash})
        replace_folder(partial, folder)
    same = not any(compared.partings for compared in proof)
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    size = sum(path.stat().st_size for path in files)
    shown = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
    what = f"{source.parameters:,} parameters, {dtype}" if to != "peft" else f"an adapter of {base_of(run.model)}"
    lines = [f"wrote     {shown}: {len(files)} files, {size / 1e6:,.1f} MB ({what})"]
    if quantizer or (to == "gguf" and not is_own(source)):
        lines += [f"          tensors: {gguf_file.types_of(folder / file)}{_wider(source, dtype)}"]
    if to == "gguf":
        lines += beyond_windows(source)
    if to == "peft":
        lines += [f'use it    AutoPeftModelForCausalLM.from_pretrained("{shown}")']
    elif to == "hf":
        lines += [f"use it    vllm serve {shown}", f'          AutoModelForCausalLM.from_pretrained("{shown}")']
    else:
        lines += [f"use it    llama-server -m {shown / file} --jinja"]
        lines += [f"          ollama create {ollama_name(source.name)} -f {shown / 'Modelfile'}"]
    lines += [f"read      {shown / 'README.md'}"]
    lines += [*(line for compared in proof for line in compared.lines()), *not_tried]
    if not same and dtype != "fp32":
        lines += [f"          {dtype} rounds the weights: --dtype fp32 tells rounding from a fault"]
    if destination and same:
        lines += _push(destination, folder, source)
    elif destination:
        lines += ["pushed    nothing: the answers part"]
    return Exported(lines, same)


def _compared(
    source: RunModel, folder: Path, to: str, dtype: str, file: str, *, rows: int
) -> tuple[list[Compared], list[str]]:
    """What other programs answer from an export that has just been written; and a line for each that was not asked."""
    own = OwnAnswers(source, rows)
    found, not_tried = [], []
    if own.too_long:
        not_tried.append(f"          {own.too_long:,} test rows fill the context and were not asked")
    if to == "hf":
        theirs = Transformers(folder, cached=source.config.border is None)
        found.append(own.compare(theirs, theirs.name, beside=True))
    server = llama_cpp.program("llama-server")
    if server is None:
        return found, [*not_tried, "          llama.cpp was not asked: llama-server is not installed"]
    whole = folder / f".{folder.name}.gguf"
    try:
        if to == "hf":
            try:
                write_any_gguf(source, whole, dtype, lambda size: None)
            except IftError as error:
                return found, [*not_tried, f"          llama.cpp was not asked: {error}"]
        asked = whole if to == "hf" else folder / file
        with llama_cpp.Server(server, asked, context_length=source.config.context_length) as running:
            found.append(own.compare(running, f"llama.cpp ({dtype})", beside=False))
    finally:
        whole.unlink(missing_ok=True)
    return found, not_tried


def _wider(source: RunModel, dtype: str) -> str:
    """Why llama.cpp has taken another type than the one that was asked for."""
    width, block = source.config.n_embd, 256  # values that share their scales in a K-quant
    fits = width % block == 0 or "k" not in dtype
    return "" if fits else f" (n_embd {width} is no multiple of {block}: llama.cpp takes wider types)"


def _push(destination: Destination, folder: Path, source: RunModel) -> list[str]:
    files = sorted(path for path in folder.iterdir())
    size = sum(path.stat().st_size for path in files)
    kind = "private" if destination.private else "PUBLIC"
    names = ", ".join(path.name for path in files)
    print(f"pushing   {destination.name} ({kind}): {names}; {size / 1e6:,.1f} MB", flush=True)
    address = destination.push(folder, f"{source.name}, exported by ift")
    return [f"pushed    {address} ({kind})"]


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A folder to write into, under a name that nobody else gives one; gone if that fails."""
    partial = folder.with_name(f".{folder.name}.ift-export")
    remove_folder(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        remove_folder(partial)
        raise


def refuse_to_replace(folder: Path, *, force: bool) -> None:
    """Raises ConfigError where something is in the way, and always where that is not an export."""
    for there in (folder, folder.with_name(folder.name + ".old")):  # the second: an export that is being replaced
        if there.exists() and not (there.is_dir() and (not any(there.iterdir()) or _is_export(there))):
            raise ConfigError(f"{there}: is there, and no export of ours (choose another --output)")
    if folder.exists() and any(folder.iterdir()) and not force:
        raise ConfigError(f"{folder}: is there already (--force replaces it)")


def _is_export(folder: Path) -> bool:
    try:
        return "export" in read_manifest(folder)["about"]
    except WeightsError:
        return False
