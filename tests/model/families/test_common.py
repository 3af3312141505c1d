"""config.json of every family, as it is published and as older and newer tools write it. Needs no torch."""

import pytest

from ift.errors import ConfigError
from ift.model.families import FAMILIES, read_config, write_config

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 2048,
    "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
    "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1,
    "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                     "original_max_position_embeddings": 8192, "rope_type": "llama3"},
    "torch_dtype": "bfloat16", "use_cache": True, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
    "attention_dropout": 0.0, "initializer_range": 0.02, "transformers_version": "4.45.0.dev0",
}  # fmt: skip


def test_llama_3_2_as_it_is_published():
    """1B: 1,235,814,400 parameters (its model card), of which 262,668,288 are the embedding."""
    config = read_config(LLAMA)
    parameters = 0
    for shape in FAMILIES["llama"].shapes(config).values():
        count = 1
        for n in shape:
            count *= n
        parameters += count
    assert parameters == 1_235_814_400
    assert (config.head_dim, config.n_kv_head, config.tie_weights, config.norm_eps) == (64, 8, True, 1e-5)
    (rope,) = config.ropes
    assert (rope.kind, rope.theta, rope.factor, rope.original, rope.low, rope.high) == ("llama3", 5e5, 32, 8192, 1, 4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, "model_type is mamba, not one of gpt2, llama"),
        ({"hidden_act": "relu2"}, "hidden_act is relu2"),
        ({"num_experts": 8}, "num_experts is 8"),
        ({"quantization_config": {"quant_method": "awq"}}, "its weights are quantized (awq)"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is true"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type is dynamic"),
        ({"attention_sink_size": 4}, "attention_sink_size is 4"),
        ({"vocab_size": None}, "vocab_size is null, which is no size"),
        ({"hidden_size": 2048.5}, "hidden_size is 2048.5, which is no size"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0, which is no size"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, which is no size"),  # before it fills memory
        ({"head_dim": 7}, "7 of 7 channels of a head that turn in pairs"),
        ({"rope_theta": float("nan")}, "a rotation of theta nan"),
        ({"rms_norm_eps": -1.0}, "eps of norms -1.0"),
        ({"model_type": "mistral", "sliding_window": -7}, "a window of -7 positions"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "1 entries for 16 layers"),
        ({"rope_scaling": {"rope_type": "default", "mrope_section": [2, 3]}}, "mrope_section of its rotation"),
        ({"model_type": ["llama"]}, "model_type is ['llama'], not one of"),
        ({"num_key_value_heads": 5}, "5 heads of keys do not divide 32"),
    ],
)
def test_what_would_change_the_arithmetic_and_is_not_known_is_named(changes, named):
    with pytest.raises((ValueError, KeyError, TypeError, ConfigError)) as refused:
        read_config({**LLAMA, **changes})
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "changes", "windows"),
    [
        ("mistral", {"sliding_window": 4096}, [4096, 4096, 4096, 4096]),
        ("mistral", {"sliding_window": None}, [None, None, None, None]),
        ("qwen2", {"sliding_window": 9, "max_window_layers": 2}, []),  # not without use_sliding_window
        ("qwen2", {"sliding_window": 9, "max_window_layers": 3, "use_sliding_window": True}, [None, None, None, 9]),
        ("gemma2", {"sliding_window": 5}, [5, None, 5, None]),
        ("gemma3_text", {"sliding_window": 5, "sliding_window_pattern": 3}, [5, 5, None, 5]),
        ("gemma3_text", {"sliding_window": 5}, [5, 5, 5, 5]),  # every sixth layer sees all
        ("olmo3", {"sliding_window": 5}, [5, 5, 5, None]),
    ],
)
def test_windows_of_older_files_that_do_not_list_their_layers(kind, changes, windows):
    small = {"num_hidden_layers": 4, "rope_scaling": None, "model_type": kind}
    config = read_config({**LLAMA, **small, **changes})
    assert list(config.windows) == windows


def test_gemma_3_that_sees_pictures_is_read_as_its_text_part():
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "model_type": "gemma3_text"}  # fmt: skip
    config = read_config({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}})
    far, near = config.ropes
    assert (far.kind, far.factor, far.theta, near.kind, near.theta) == ("linear", 8.0, 1e6, "default", 1e4)
    assert (config.n_layer, config.vocab_size, config.head_dim, config.n_kv_head) == (34, 262208, 256, 4)
    assert FAMILIES[config.family].plain_name("language_model.model.layers.0.mlp.up_proj.weight") == (
        "layers.0.mlp.up_proj.weight"
    )


@pytest.mark.parametrize(
    ("kind", "stated", "older"),
    [
        ("olmo2", {"rope_type": "linear", "factor": 4}, {"type": "linear", "factor": 4.0}),
        (
            "phi3",
            {"rope_type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32,
             "original_max_position_embeddings": 4096},
            {"type": "longrope", "short_factor": [1.0] * 32, "long_factor": [2.0] * 32},
        ),
        ("llama", {"rope_type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
    ],
)  # fmt: skip
def test_rotation_is_written_as_each_family_of_transformers_4_takes_it(kind, stated, older):
    """Its Olmo2Config refuses all but type and factor, its Phi3Config all but these three: tests/long asks them."""
    small = {**LLAMA, "model_type": kind, "rope_scaling": None, "rope_theta": None}
    config = read_config({**small, "rope_parameters": {**stated, "rope_theta": 1e5}})
    written = write_config(config, 2)
    assert (written["rope_scaling"], written["rope_theta"]) == (older, 1e5)
    assert written.get("original_max_position_embeddings") == stated.get("original_max_position_embeddings")
    assert read_config(written).ropes == config.ropes
