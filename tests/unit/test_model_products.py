"""What the model computes besides its layers: a rank's part of the head and of frames, and the embeddings of clips."""

from typing import Any

import pytest
import torch
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sglang_speechlm.audio.encoder import AudioEncoder
from sglang_speechlm.checkpoint import CheckpointSpec
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.model.speechlm import SpeechLMForConditionalGeneration, codec_rows, frame_sums
from sglang_speechlm.server.lifetime.start import codec_device

IDS = SpeechLMConfig().ids
VOCABULARY = 160_392


class CreatedBytes(TorchDispatchMode):
    """The bytes of all float32 tensors that are created."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and output.dtype == torch.float32:
            self.total += output.nbytes
        return output


def test_no_copy_of_the_whole_head_is_made_at_the_released_sizes() -> None:
    head = torch.empty(VOCABULARY, 4096, dtype=torch.bfloat16, device="meta")
    with CreatedBytes() as created:
        codec_rows(head, 0, IDS).float()
    assert created.total < 512 << 20


@pytest.mark.parametrize("ranks", [1, 2, 4, 1000])
def test_the_ranks_parts_of_the_codec_head_add_up_to_the_whole(ranks: int) -> None:
    head = torch.randn(VOCABULARY, 4)
    size = -(-VOCABULARY // ranks)
    parts = [codec_rows(part, rank * size, IDS) for rank, part in enumerate(head.split(size))]
    expected = torch.cat([head[IDS.codec_begin : IDS.codec_end], head[IDS.eos : IDS.eos + 1]])
    assert torch.stack(parts).sum(dim=0).equal(expected)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_ranks_sums_of_a_frame_add_up_to_its_embedding(ranks: int) -> None:
    table = torch.randn(60, 5)
    frames = torch.randint(0, 60, (40, 8))
    frames[::3, 0] = 0
    frames[::4, 3:] = 0
    size = 60 // ranks
    parts = [frame_sums(frames, part, rank * size) for rank, part in enumerate(table.split(size))]
    assert {part.shape for part in parts} == {(40, 5)}
    expected = torch.stack([table[frame[:1] + [i for i in frame[1:] if i]].sum(dim=0) for frame in frames.tolist()])
    torch.testing.assert_close(sum(parts), expected)


def test_a_frame_is_rounded_once_whichever_ranks_have_its_embeddings() -> None:
    table = torch.randn(64, 256).bfloat16()
    frames = torch.randint(1, 64, (30, 8))
    whole = frame_sums(frames, table, 0).bfloat16()
    halves = [frame_sums(frames, half, first) for first, half in ((0, table[:32]), (32, table[32:]))]
    torch.testing.assert_close((halves[0] + halves[1]).bfloat16(), whole, rtol=0, atol=2.0**-6)


def test_each_worker_of_a_machine_decodes_sound_on_its_own_gpu() -> None:
    assert [codec_device("auto", 4, first) for first in range(4)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]


def test_a_named_codec_device_is_used_and_without_a_gpu_the_cpu() -> None:
    assert (codec_device("cpu", 4, 2), codec_device("auto", 0, 2)) == ("cpu", "cpu")


@torch.no_grad()
def test_the_embedding_of_each_clip_owns_its_memory() -> None:
    """A view in SGLang's cache of clips would keep the embeddings of all clips that were computed together."""
    config = CheckpointSpec().config()
    model = SpeechLMForConditionalGeneration.__new__(SpeechLMForConditionalGeneration)
    nn.Module.__init__(model)
    model.audio_encoder = AudioEncoder(config.audio_config)
    model.adaptor = nn.Linear(config.adaptor_input_dim, config.hidden_size)
    model.stream_emb = nn.Embedding(config.num_stream, config.hidden_size)
    mel = [torch.randn(config.audio_config.num_mel_bins, frames) for frames in (100, 250)]
    items = [MultimodalDataItem(modality=Modality.AUDIO, feature=feature, offsets=[]) for feature in mel]
    embeddings = model.get_audio_feature(items)
    assert len(embeddings) == 2
    for embedding in embeddings:
        assert embedding.untyped_storage().nbytes() == embedding.nbytes
