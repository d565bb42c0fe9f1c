"""The trained model is the served one: the trainee's losses equal those of the reference on the exported checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from reference import Reference, Request
from safetensors import safe_open
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import XcodecConfig, XcodecModel

from sglang_speechlm.audio.mel import mel_features
from sglang_speechlm.codec.delay import interleave
from sglang_speechlm.demo.recipe.codec import HOP, Quantizer, log_mel, new_codec, spectral_loss, train_encoder
from sglang_speechlm.demo.recipe.examples import Layout, Voiced, collate
from sglang_speechlm.demo.recipe.export import export
from sglang_speechlm.demo.recipe.language_model import Trainee
from sglang_speechlm.demo.recipe.requests import Exchange
from sglang_speechlm.demo.recipe.vocabulary import new_config, write_tokenizer
from sglang_speechlm.tokenizer import TextTokenizer

TEXT = "A dog says woof."
FRAMES = 12


@pytest.fixture(scope="module")
def trainee() -> Trainee:
    torch.manual_seed(0)
    model = Trainee(new_config(), phones=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    return model.eval()


@pytest.fixture(scope="module")
def directory(trainee: Trainee, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported")
    write_tokenizer(directory, trainee.config, [TEXT, "What does a dog say?"] * 10)
    return export(trainee, new_codec(), directory)


@pytest.mark.parametrize("heard", [False, True], ids=["text", "clip"])
@torch.no_grad()
def test_the_losses_of_frames_equal_the_served_models(heard: bool, trainee: Trainee, directory: Path) -> None:
    reference = Reference.load(directory)
    config, ids = trainee.config, trainee.ids
    random = np.random.default_rng(1)
    clip = random.normal(size=20_000).astype(np.float32)
    voiced = Voiced(
        TEXT,
        random.integers(ids.codebook_size, size=(FRAMES, ids.num_stream)),
        np.zeros(FRAMES, np.int64),
        np.repeat(np.arange(4), FRAMES // 4),
    )
    tokenizer = TextTokenizer.from_pretrained(directory, config)
    layout = Layout(config, tokenizer, Tokenizer.from_file(str(directory / "tokenizer.json")), 3)
    exchange = Exchange("", "" if heard else "What does a dog say?", TEXT)
    prompt = layout.turn(exchange, mel_features(clip, config) if heard else None)
    losses = trainee(collate([layout.spoken(prompt, voiced, unconditional=False)]))

    message = ("user", [("audio", clip)]) if heard else ("user", [("text", exchange.user)])
    request = Request([message], speak=True, text=TEXT, audio_min_frames=0)  # type: ignore[list-item]
    frames = interleave(voiced.codes, ids)
    forced = reference.teacher_forced_logits(request, [*tokenizer.encode(TEXT), ids.eot], frames)
    assert forced.audio_logits is not None
    for stream in range(1, ids.num_stream):
        target = torch.from_numpy(frames[:, stream] - ids.codec_pad(stream))
        served = cross_entropy(forced.audio_logits[:-1, stream, 1:], target)
        assert losses.by_stream[stream].item() == pytest.approx(served.item(), rel=1e-4)


def test_files_are_stored_in_half_precision(directory: Path) -> None:
    with safe_open(directory / "model.safetensors", "pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert set(dtypes.values()) == {torch.bfloat16, torch.float16}
    assert "lm_head.weight" not in dtypes


def test_transformers_loads_the_codec(directory: Path) -> None:
    codec = XcodecModel(XcodecConfig.from_pretrained(directory / "xcodec"))
    assert codec.config.hop_length == HOP
    assert codec.config.num_quantizers == 8


def test_hidden_frames_are_not_read(trainee: Trainee, directory: Path) -> None:
    tokenizer = TextTokenizer.from_pretrained(directory, trainee.config)
    layout = Layout(trainee.config, tokenizer, Tokenizer.from_file(str(directory / "tokenizer.json")), 3)
    batches = []
    for seed in (0, 1):
        codes = np.random.default_rng(seed).integers(trainee.ids.codebook_size, size=(FRAMES, 8))
        voiced = Voiced(TEXT, codes, np.zeros(FRAMES, np.int64), np.zeros(FRAMES, np.int64))
        batches.append(collate([layout.spoken(layout.turn(Exchange("", "Woof?", TEXT)), voiced, unconditional=False)]))
    hide = batches[0].frames[..., 1] != 0
    with torch.no_grad():
        hidden_losses = [trainee(batch, hide).halfway.item() for batch in batches]
        visible_losses = [trainee(batch).halfway.item() for batch in batches]
    assert hidden_losses[0] == hidden_losses[1]
    assert visible_losses[0] != visible_losses[1]


def test_mel_frames_are_aligned_with_codes() -> None:
    sound = np.zeros(HOP * 10 + 5, np.int16)
    sound[HOP * 6 : HOP * 7] = 8000
    mel = log_mel(sound)
    assert mel.shape == (11, 80)
    assert int(mel.sum(1).argmax()) == 6


def test_every_stream_reduces_the_quantizers_error() -> None:
    torch.manual_seed(0)
    codec = new_codec()
    mels = torch.randn(1500, 80) @ torch.randn(80, 80)
    quantizer = Quantizer.fit(mels, codec)
    codes = quantizer.codes(mels[:200])
    components = quantizer.components(mels[:200])
    residual, distances = components, []
    for stream, book in enumerate(codec.quantizer.quantizers):
        residual = residual - book.codebook.embed[codes[:, stream]]
        distances.append(float(residual.norm()))
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.5 * float(components.norm())


def test_the_spectral_loss_of_a_sound_with_itself_is_zero() -> None:
    torch.manual_seed(0)
    sound = torch.randn(2, 6400) * 0.1
    assert float(spectral_loss(sound, sound)) < 1e-4 < float(spectral_loss(sound, sound.flip(1)))


def test_the_encoder_learns_without_reading_the_untrained_half() -> None:
    torch.manual_seed(0)
    codec = new_codec()
    sounds = [np.random.default_rng(0).integers(-3000, 3000, HOP * 45).astype(np.int16)]
    before = codec.fc.weight[:, :16].clone()
    train_encoder(codec, [torch.randn(45, 64)], sounds, steps=3, batch=2)
    assert not torch.equal(codec.fc.weight[:, :16], before)
    assert not codec.fc.weight[:, -16:].any()
    assert all(parameter.isfinite().all() for parameter in codec.acoustic_encoder.parameters())
