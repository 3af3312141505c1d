"""Memory and seconds of reading and writing weights, over what the weights themselves take.

python benchmarks/loading.py [--megabytes 600] [--folder .] [--only NAME]
python benchmarks/loading.py --model FOLDER

A folder of random weights is made for each kind (`KINDS`), and read in a process of its own, as training reads it: fp32
parameters whatever the file holds. The ratio is of the highest resident memory above that before the reading, pages of
the file that are mapped among it, and of the bytes of the parameters in the type that is trained. Then that model is
written again, as training writes its best. The page cache is warm: the seconds are those of copying, beside those of a
plain read of the files. Prints a line of JSON for each.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

BOUND = 1.15  # times the weights in the type that is trained
# name -> what config.json says beside SIZES, type of the file, files
KINDS: dict[str, tuple[dict[str, Any], str, int]] = {
    "llama bf16": ({"model_type": "llama"}, "BF16", 1),
    "llama bf16, four files": ({"model_type": "llama"}, "BF16", 4),
    "llama fp32, tied": ({"model_type": "llama", "tie_word_embeddings": True}, "F32", 1),
    "phi3 bf16 (fused)": ({"model_type": "phi3"}, "BF16", 1),
    "gpt_neox bf16 (head by head)": ({"model_type": "gpt_neox", "num_key_value_heads": None}, "BF16", 1),
    "gpt2 fp32 (transposed)": ({"model_type": "gpt2"}, "F32", 1),
}
SIZES = {
    "hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "num_key_value_heads": 4,
    "vocab_size": 32_000, "max_position_embeddings": 2048,
}  # fmt: skip


def config_of(differing: dict[str, Any], megabytes: int) -> dict[str, Any]:
    """config.json of a model of about so many MB in fp32."""
    if differing["model_type"] == "gpt2":
        width = SIZES["hidden_size"]
        layers = max(1, (megabytes * 250_000 - SIZES["vocab_size"] * width) // (12 * width * width))
        return {
            **differing, "n_layer": layers, "n_embd": width, "n_head": 16, "n_positions": 1024,
            "vocab_size": SIZES["vocab_size"],
        }  # fmt: skip
    return {**SIZES, "num_hidden_layers": max(1, megabytes // 60), **differing}


def make(folder: Path, differing: dict[str, Any], kind: str, files: int, megabytes: int) -> None:
    """A model folder with random weights, written without torch."""
    from ift.artifacts.tensors import write_tensors
    from ift.model.families import family_of, read_config

    folder.mkdir(parents=True)
    config = config_of(differing, megabytes)
    (folder / "config.json").write_text(json.dumps(config))
    its = read_config(config)
    family = family_of(its)
    shapes = {family.stored_name(name): shape for name, shape in family.shapes(its).items()}
    noise = np.random.default_rng(0).standard_normal(1_000_003, dtype=np.float32) * 0.02

    def values(names: list[str]):
        for name in names:
            value = np.resize(noise, int(np.prod(shapes[name])))
            yield value if kind == "F32" else (value.view(np.uint32) >> 16).astype(np.uint16)

    names, where = list(shapes), {}
    for number in range(files):
        own = names[number::files]
        file = "model.safetensors" if files == 1 else f"model-{number + 1:05}-of-{files:05}.safetensors"
        write_tensors(folder / file, {name: (kind, shapes[name]) for name in own}, values(own), {"format": "pt"})
        where |= dict.fromkeys(own, file)
    if files > 1:
        index = {"metadata": {"total_size": 0}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def status(key: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS now, VmHWM the highest so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def forget_highest() -> None:
    """From here on VmHWM is that of what follows."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(folder: Path, scratch: Path) -> dict[str, float]:
    """In a process of its own: what reading and writing take beyond what is there already."""
    import torch

    from ift.artifacts.weights import inspect_folder, load_model, save_weights

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as tiny:  # what is imported on the way is no part of the reading
        small = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 32, "num_hidden_layers": 1}
        make(Path(tiny) / "model", {"model_type": "llama", **small}, "BF16", 1, 1)
        save_weights(load_model(inspect_folder(Path(tiny) / "model")), Path(tiny), end_of_text=0)
    start = time.perf_counter()
    size = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while part := stream.read(1 << 24):
                size += len(part)
    plain = time.perf_counter() - start
    before = status("VmRSS")
    forget_highest()
    start, cpu = time.perf_counter(), time.process_time()
    model = load_model(inspect_folder(folder))
    read_seconds, read_cpu = time.perf_counter() - start, time.process_time() - cpu
    weights = sum(parameter.nbytes for parameter in model.parameters())
    read = (status("VmHWM") - before) / weights
    before = status("VmRSS")
    forget_highest()
    start, cpu = time.perf_counter(), time.process_time()
    save_weights(model, scratch, end_of_text=0)
    write_seconds, write_cpu = time.perf_counter() - start, time.process_time() - cpu
    written = (status("VmHWM") - before) / weights
    return {
        "weights_mb": round(weights / 1e6, 1), "files_mb": round(size / 1e6, 1),
        "read_peak": round(read, 3), "read_seconds": round(read_seconds, 3), "read_cpu_seconds": round(read_cpu, 3),
        "plain_read_seconds": round(plain, 3),
        "write_extra": round(written, 3), "write_seconds": round(write_seconds, 3),
        "write_cpu_seconds": round(write_cpu, 3),
    }  # fmt: skip


def measured(folder: Path) -> dict[str, float]:
    """`measure` in a fresh process."""
    processes = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, processes.Pool(1) as pool:
        return pool.apply(measure, (folder, Path(scratch)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--model", type=Path, help="a folder that is there instead")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if arguments.model:
        print(json.dumps({"folder": str(arguments.model), **measured(arguments.model)}))
        return
    for name, (differing, kind, files) in KINDS.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory(prefix="loading-", dir=arguments.folder) as scratch:
                folder = Path(scratch) / "model"
                make(folder, differing, kind, files, arguments.megabytes)
                print(json.dumps({"kind": name, **measured(folder)}), flush=True)


if __name__ == "__main__":
    main()
