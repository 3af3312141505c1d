"""What Lightning's users type means the same here, or is refused with what to type."""

import pytest

from ift.errors import ConfigError
from ift.spellings import accelerator, devices, fast_dev_run, precision

KEY = "trainer.x"


@pytest.mark.parametrize(
    ("read", "given", "meant"),
    [
        *((precision, given, "fp32") for given in ("32-true", 32, "32", "fp32", "FP32")),
        *((precision, given, "bf16") for given in ("bf16-mixed", "bf16")),
        *((precision, given, "fp16") for given in ("16-mixed", 16, "16")),
        (precision, "auto", "auto"),
        *((accelerator, given, "gpu") for given in ("gpu", "cuda")),
        (accelerator, "cpu", "cpu"),
        *((devices, given, "auto") for given in ("auto", -1, "-1")),
        *((devices, given, 2) for given in (2, "2")),
        *((devices, given, [0, 1]) for given in ([0, 1], "0,1", "0, 1")),
        (devices, "1,", [1]),
        (devices, None, None),
        (devices, [3], [3]),
        *((fast_dev_run, given, 0) for given in (False, None, 0)),
        (fast_dev_run, True, 1),
        (fast_dev_run, 5, 5),
    ],
)
def test_one_spelling_for_all(read, given, meant):
    assert (read(given, KEY), type(read(given, KEY))) == (meant, type(meant))


@pytest.mark.parametrize(
    ("read", "given", "advice"),
    [
        (precision, "bf16-true", "weights and optimizer stay fp32 (trainer.x=bf16 computes the matrix products in it)"),
        (precision, "16-true", "weights and optimizer stay fp32 (trainer.x=fp16 computes the matrix products in it)"),
        (precision, 64, "fp32 is the widest type here (trainer.x=fp32 computes the matrix products in it)"),
        (precision, "fp8", "must be one of auto, fp32 (32-true), bf16 (bf16-mixed), fp16 (16-mixed)"),
        (accelerator, "mps", "losses are summed in fp64, which Apple's GPUs lack (use trainer.x=cpu)"),
        (accelerator, "tpu", "must be one of auto, cpu, gpu (cuda)"),
        *(
            (devices, given, "must be auto, a number above 0, or numbers of GPUs: [0,1]")
            for given in (0, -2, True, 1.5, "two", [], [0, 0], [-1, 0], ",")
        ),
        (fast_dev_run, "yes", "must be true, false or a number of steps"),
        (fast_dev_run, -1, "must be true, false or a number of steps"),
    ],
)
def test_what_is_not_here_is_one_line(read, given, advice):
    with pytest.raises(ConfigError) as refused:
        read(given, KEY)
    assert str(refused.value) == f"trainer.x={given}: {advice}"
