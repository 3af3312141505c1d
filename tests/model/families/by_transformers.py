"""Models of transformers with weights that hide nothing, and their logits: here, or by another version of it.

python by_transformers.py FOLDER CASES.json     CASES: {"make": {name: [model_type, sizes]}, "read": [name, ...]}

Makes FOLDER/NAME for each of "make", and leaves the logits of those and of each of "read" in FOLDER/NAME.logits. Needs
transformers alone, so that a version that this project does not run on can be asked. The reference attends in the eager
way: torch's fused attention leaves out Gemma 2's cap of scores without a word.
"""

import json
import math
import sys
from pathlib import Path

import torch

VOCABULARY, LENGTH = 67, 29  # longer than each window (7) and each original context (16) of the cases


def scale(model: torch.nn.Module) -> None:
    """About 1.5 / sqrt(fan in), vectors around one: nothing hides behind small numbers."""
    random = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=random)
        with torch.no_grad():
            if parameter.dim() == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * 1.5 / math.sqrt(parameter.shape[1]))


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def made(kind: str, sizes: dict) -> torch.nn.Module:
    import transformers

    config = transformers.AutoConfig.for_model(
        kind, **{key: value for key, value in sizes.items() if value is not None}
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    scale(model)
    return model


def main() -> None:
    import transformers
    from safetensors.torch import save_file

    transformers.utils.logging.set_verbosity_error()
    folder, cases = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    for name in [*cases["make"], *cases["read"]]:
        if name in cases["make"]:
            model = made(*cases["make"][name])
            model.save_pretrained(folder / name)
        else:
            model, told = transformers.AutoModelForCausalLM.from_pretrained(
                folder / name, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
            )
            assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), (name, told)
        with torch.no_grad():
            logits = model.eval()(tokens(2, LENGTH)).logits
        save_file({"logits": logits}, folder / f"{name}.logits")
    print(transformers.__version__)


if __name__ == "__main__":
    main()
