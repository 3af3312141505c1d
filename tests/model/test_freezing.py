"""Freezing by name: what is frozen has no gradient, no place in the optimizer, and does not move."""

import pytest

from ift.errors import ConfigError
from ift.model.freezing import freeze, frozen_by
from tests.running import train

NAMES = ["wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.mlp.c_fc.weight", "h.1.ln_1.weight", "h.10.ln_1.weight"]


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ([], []),
        (["wte"], ["wte.weight"]),
        (["h.1"], ["h.1.ln_1.weight"]),  # and not h.10
        (["h.*.ln_1"], ["h.0.ln_1.weight", "h.1.ln_1.weight", "h.10.ln_1.weight"]),
        (["h.[01]", "wpe.weight"], ["wpe.weight", "h.0.ln_1.weight", "h.0.mlp.c_fc.weight", "h.1.ln_1.weight"]),
        (["*.ln_1"], ["h.0.ln_1.weight", "h.1.ln_1.weight", "h.10.ln_1.weight"]),
        (["transformer.wte"], ["wte.weight"]),  # as published files name it
    ],
)
def test_a_name_freezes_all_that_it_begins(patterns, frozen):
    assert sorted(frozen_by(patterns, NAMES)) == sorted(frozen)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["h.12"], "model.freeze=h.12: no parameter begins so (near: h.1, h.10, "),
        (["wte", "wpee"], "model.freeze=wpee: no parameter begins so (near: wpe, "),
        (["q"], "model.freeze=q: no parameter begins so (names begin with h, wpe, wte)"),
        (["lm_head"], "model.freeze=lm_head: no parameter begins so (the head is wte.weight here; model.tie_weights="),
        (["h", "w*"], "model.freeze=[h,w*]: leaves nothing to train (leave some of it out)"),
    ],
)
def test_a_name_of_nothing_and_all_of_them_are_errors(patterns, message):
    with pytest.raises(ConfigError) as refused:
        frozen_by(patterns, NAMES)
    assert str(refused.value).startswith(message)


def test_a_model_trains_what_is_left(make_model):
    model = make_model(tie_weights=False)
    freeze(model, ["wte", "wpe", "h.0"])
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert [name for name in frozen if not name.startswith("h.0.")] == ["wte.weight", "wpe.weight"]
    assert len(frozen) == 2 + 12


def test_a_wrong_name_is_one_line_before_torch(warm_without_torch, tmp_path):
    done = train("model.freeze=[h.7]", f"output_dir={tmp_path}/run", "logger=none", run=warm_without_torch.run)
    assert done.returncode == 2
    assert done.stderr == "ift: error: model.freeze=h.7: no parameter begins so (near: h.0, h, h.0.mlp)\n"
