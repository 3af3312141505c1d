"""Several adapters on one base: its weights are read once, lie in memory once, and each answers as it does alone."""

from dataclasses import replace

import pytest
import torch

from ift.artifacts import bases as module
from ift.artifacts.bases import Bases
from ift.artifacts.weights import inspect_folder, load_model
from ift.generation.engine import generate
from ift.model.linear import compute_in
from ift.run import read_json, write_json
from tests.artifacts.test_adapter_folder import make
from tests.model.families.by_transformers import tokens
from tests.model.test_adapters import folders  # noqa: F401  a fixture


def memory_of(*models) -> int:
    """Bytes of all parameters and buffers, each memory once."""
    tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def answers(model) -> list[list[int]]:
    prompts = tokens(3, 6).tolist()
    return [answer.ids for answer in generate(model.eval(), prompts, end_of_text=2, max_new_tokens=12)]


@pytest.mark.parametrize("four_bits", [False, True], ids=["fp32", "four bits"])
def test_two_adapters_and_their_base_are_one_base_in_memory_and_answer_as_each_alone(
    folders, tmp_path, monkeypatch, four_bits  # noqa: F811
):  # fmt: skip
    read = []
    plain = module.build_model
    monkeypatch.setattr(module, "build_model", lambda *a, **k: read.append(a[1].path) or plain(*a, **k))
    base = inspect_folder(folders("qwen3"))
    for name, options in (("a", {"targets": ["q_proj", "down_proj"]}), ("b", {"dora": True, "tokens": (5, 7)})):
        make(base.path, tmp_path / name, seed=len(read) + ord(name), **options)
        if four_bits:
            about = read_json(tmp_path / name / "ift.json")
            write_json(tmp_path / name / "ift.json", {"base": {**about["base"], "four_bits": True}})
    found = [inspect_folder(tmp_path / name) for name in "ab"]
    found += [] if four_bits else [base]
    shared = Bases()
    models = [shared.model(replace(one.config, tokens=60), one) for one in found]
    assert read == [base.path]
    alone = load_model(base, tokens=60)
    own = sum(p.nbytes for model in models[:2] for p in model.parameters() if p.requires_grad)
    own += sum(buffer.nbytes for buffer in models[1].own_rows.buffers())
    if four_bits:
        assert memory_of(*models) < memory_of(alone)
        first = sum(p.nbytes for p in models[0].parameters() if p.requires_grad)
        assert memory_of(*models) == memory_of(models[0]) - first + own
    else:
        assert memory_of(*models) == memory_of(alone) + own
    different = [answers(model) for model in models]
    assert different == [answers(load_model(one, tokens=60)) for one in found]
    assert different[0] != different[1]


def test_types_of_products_and_what_is_held_for_answers_are_each_models_own(folders, tmp_path):  # noqa: F811
    base = inspect_folder(folders("llama"))
    shared = Bases()
    one, other = (shared.model(base.config, base).eval() for _ in range(2))
    compute_in(one, torch.bfloat16)
    ids = tokens(2, 9)
    with torch.no_grad():
        assert torch.equal(other(ids), load_model(base).eval()(ids))
        assert one(ids).dtype == torch.bfloat16
    assert one.token_rows["embedding"].data_ptr() == other.token_rows["embedding"].data_ptr()
