"""The tensors that a config requires, and the messages about others."""

import pytest

from sglang_speechlm.checkpoint import CODEC_PREFIX, CheckpointSpec, check_tensors, expected_tensors

SPEC = CheckpointSpec()
CONFIG = SPEC.config()


def test_the_released_config_requires_the_released_layout() -> None:
    released = CheckpointSpec(
        hidden_size=4096, intermediate_size=12288, layers=36, heads=32, kv_heads=8, head_dim=128,
        text_vocab_size=151936, codec_layer_size=1025, audio_layers=32, audio_heads=20, audio_d_model=1280,
        audio_ffn_dim=5120, audio_output_dim=2048, audio_downsample_hidden_size=480,
    ).config()  # fmt: skip
    shapes = expected_tensors(released)
    tower = "multimodal_io_dict.continuous_audio.model.audio_tower."
    assert shapes["model.embed_tokens.weight"] == shapes["lm_head.weight"] == (160392, 4096)
    assert shapes["stream_emb.weight"] == (8, 4096)
    assert shapes["adaptor.continuous_audio.weight"] == (4096, 2048)
    assert shapes["adaptor.continuous_audio.bias"] == (4096,)
    assert shapes["model.layers.35.self_attn.q_norm.weight"] == (128,)
    assert shapes[tower + "layers.31.fc1.weight"] == (5120, 1280)
    assert shapes[tower + "conv_out.weight"] == (1280, 480 * 16)
    assert len(shapes) == 399 + 3 + 525


def test_a_changed_config_requires_other_tensors() -> None:
    config = SPEC.config()
    assert expected_tensors(config) == expected_tensors(CONFIG)
    config.text_config.intermediate_size = 40
    assert expected_tensors(config)["model.layers.0.mlp.up_proj.weight"] == (40, 96)


def test_tied_embeddings_leave_out_lm_head() -> None:
    tied = CheckpointSpec(tie_word_embeddings=True).config()
    assert expected_tensors(CONFIG).keys() - expected_tensors(tied).keys() == {"lm_head.weight"}


def test_exactly_the_expected_tensors_pass_with_or_without_a_codec() -> None:
    shapes = expected_tensors(CONFIG)
    check_tensors(shapes, CONFIG)
    check_tensors({**shapes, CODEC_PREFIX + "fc2.weight": (1, 1)}, CONFIG)


def test_a_tied_head_may_still_be_stored() -> None:
    tied = CheckpointSpec(tie_word_embeddings=True).config()
    shapes = expected_tensors(tied)
    check_tensors({**shapes, "lm_head.weight": shapes["model.embed_tokens.weight"]}, tied)


def test_a_missing_tensor_is_named() -> None:
    shapes = expected_tensors(CONFIG)
    del shapes["stream_emb.weight"]
    with pytest.raises(ValueError, match=r"1 missing \(stream_emb\.weight\)$"):
        check_tensors(shapes, CONFIG)


def test_an_unexpected_tensor_is_named() -> None:
    with pytest.raises(ValueError, match=r"1 unexpected \(model\.surplus\)$"):
        check_tensors({**expected_tensors(CONFIG), "model.surplus": (1,)}, CONFIG)


def test_a_misshapen_tensor_is_named_with_both_shapes() -> None:
    shapes = expected_tensors(CONFIG) | {"stream_emb.weight": (9, 96)}
    with pytest.raises(ValueError, match=r"1 misshapen \(stream_emb\.weight is \[9, 96\], expected \[8, 96\]\)$"):
        check_tensors(shapes, CONFIG)


def test_long_lists_of_names_are_cut_and_counted() -> None:
    with pytest.raises(ValueError, match=rf"{len(expected_tensors(CONFIG))} missing .* and \d+ more\)$") as error:
        check_tensors({}, CONFIG)
    assert len(str(error.value)) < 1000
