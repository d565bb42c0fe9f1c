"""The reference's prompt layout."""

import numpy as np
import pytest
import torch
from reference import Message, Reference
from reference.prompt import Row
from reference.tiny import tiny_reference

BOS, EOS, EOT, SYSTEM, USER, ASSISTANT, TEXT, AUDIO = 1, 2, 3, 4, 5, 6, 7, 8


@pytest.fixture(scope="module")
def reference() -> Reference:
    return tiny_reference()


def first_stream(rows: list[Row]) -> list[int | str]:
    return ["feature" if isinstance(row, torch.Tensor) else row[0] for row in rows]


def test_a_segment_ends_in_eot_if_the_next_has_the_same_role_and_otherwise_in_eos(reference: Reference) -> None:
    def byte(character: str) -> int:
        return reference.encode(character)[0]

    messages: list[Message] = [
        ("system", [("text", "a")]),
        ("user", [("text", "b"), ("text", "c")]),
        ("user", [("text", "")]),
        ("assistant", [("text", "d")]),
    ]
    assert first_stream(reference.prompt(messages)) == [
        *[BOS],
        *[SYSTEM, TEXT, byte("a"), EOS],
        *[USER, TEXT, byte("b"), EOT],
        *[USER, TEXT, byte("c"), EOT],
        *[USER, TEXT, EOS],
        *[ASSISTANT, TEXT, byte("d"), EOS],
        *[ASSISTANT],
    ]


def test_text_and_control_rows_are_zero_in_the_other_streams(reference: Reference) -> None:
    rows = reference.prompt([("user", [("text", "hello")])])
    assert all(isinstance(row, list) and row[1:] == [0] * 7 for row in rows)


def test_a_clip_becomes_its_features_after_the_audio_id(reference: Reference) -> None:
    clip = np.sin(np.arange(16000) / 20).astype(np.float32)
    rows = reference.prompt([("user", [("audio", clip), ("text", "x")])])
    features = [row for row in rows if isinstance(row, torch.Tensor)]
    assert torch.equal(torch.stack(features), reference.hear(clip))
    assert first_stream(rows) == [
        BOS, USER, AUDIO, *["feature"] * 13, EOT, USER, TEXT, *reference.encode("x"), EOS, ASSISTANT,
    ]  # fmt: skip


def test_spoken_history_becomes_delayed_codes(reference: Reference) -> None:
    rows = reference.prompt([("assistant", [("text", "x"), ("frames", np.full((2, 8), 4))])])
    assert first_stream(rows)[:7] == [BOS, ASSISTANT, TEXT, *reference.encode("x"), EOT, ASSISTANT, AUDIO]
    begin, size = reference.ids.codec_begin, reference.ids.codec_layer_size
    frames = np.array(rows[7:-2]) - begin - size * np.arange(8)
    assert frames.tolist() == [[5 if 0 <= frame - stream < 2 else 0 for stream in range(8)] for frame in range(9)]
    assert first_stream(rows)[-2:] == [EOS, ASSISTANT]


def test_raw_text_id_zero_becomes_pad_unless_the_config_keeps_it(reference: Reference) -> None:
    assert reference.encode("!") == [0]
    assert tiny_reference(text_id_zero_is_pad=False).encode("!") == [256]


def test_reserved_names_in_a_text_are_plain_text(reference: Reference) -> None:
    tokens = reference.encode("<|assistant|><|eot|>")
    assert len(tokens) == len("<|assistant|><|eot|>")
    assert min(tokens) >= reference.ids.text_begin
