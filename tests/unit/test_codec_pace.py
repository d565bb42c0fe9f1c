"""The codec yields to the language model on a CPU, and keeps a GPU busy."""

from sglang_speechlm.codec.client import pace


def test_on_a_cpu_the_codec_yields() -> None:
    assert pace("cpu").nice > 0


def test_with_a_gpu_the_codec_is_not_niced_and_decodes_larger_batches() -> None:
    for device in ("cuda", "cuda:3"):
        assert pace(device).nice == 0
        assert pace(device).batch_codes >= 2 * pace("cpu").batch_codes
