"""`ift export`: a run's best model as a folder for other programs, written beside its name and put in place whole."""

from __future__ import annotations

import os
from pathlib import Path

from ift.errors import ConfigError, WeightsError
from ift.export import gguf_file, hugging_face
from ift.export.card import card
from ift.export.ollama import modelfile, ollama_name
from ift.export.source import RunModel
from ift.progress import progress
from ift.run import RunFolder, write_text
from ift.sealed import MANIFEST, read_manifest, recover_folder, remove_folder, replace_folder, seal

DTYPES = {"hf": tuple(hugging_face.DTYPES), "gguf": tuple(gguf_file.DTYPES)}


def export(
    run: RunFolder, to: str, *, dtype: str = "fp32", output: Path | None = None, force: bool = False
) -> list[str]:
    """Write the folder, RUN/export/TO-DTYPE unless output names another; the lines that say what, and how to use it.

    force: replace an earlier export of the same name. Any other folder is never replaced.
    Raises ConfigError, WeightsError for a damaged model, MachineError where the package gguf is missing.
    """
    if dtype not in DTYPES[to]:
        raise ConfigError(f"--dtype {dtype}: must be one of {', '.join(DTYPES[to])} for --to {to}")
    if to == "gguf":
        gguf_file.gguf_package()
    folder = Path(os.path.abspath(output or run.path / "export" / f"{to}-{dtype}"))  # "." has a name too
    if folder.is_relative_to(run.model.absolute()):
        raise ConfigError(f"{folder}: inside the run's own model (choose another --output)")
    refuse_to_replace(folder, force=force)
    recover_folder(folder)
    source = RunModel.open(run)
    partial = folder.with_name(f".{folder.name}.ift-export")  # a name that nobody else gives a folder
    remove_folder(partial)
    partial.mkdir(parents=True)
    file = f"model-{dtype}.gguf" if to == "gguf" else "model.safetensors"
    try:
        with progress("exporting", 4 * source.parameters, "MB", scale=1e6) as advance:
            if to == "hf":
                hugging_face.write_hugging_face(source, partial, dtype, advance)
            else:
                gguf_file.write_gguf(source, partial / file, dtype, advance)
                write_text(partial / "Modelfile", modelfile(source, file))
        write_text(partial / "README.md", card(source, to=to, dtype=dtype, file=file))
        about = {"export": to, "dtype": dtype, "run": source.name, "prompt": source.template.hash}
        seal(partial, about)
        replace_folder(partial, folder)
    except BaseException:
        remove_folder(partial)
        raise
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    size = sum(path.stat().st_size for path in files)
    shown = Path(os.path.relpath(folder)) if folder.is_relative_to(Path.cwd()) else folder
    lines = [f"wrote     {shown}: {len(files)} files, {size / 1e6:,.1f} MB ({source.parameters:,} parameters, {dtype})"]
    if to == "hf":
        lines += [f"use it    vllm serve {shown}", f'          AutoModelForCausalLM.from_pretrained("{shown}")']
    else:
        lines += [f"use it    llama-server -m {shown / file} --jinja"]
        lines += [f"          ollama create {ollama_name(source.name)} -f {shown / 'Modelfile'}"]
    return [*lines, f"read      {shown / 'README.md'}"]


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
