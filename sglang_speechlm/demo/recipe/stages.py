"""The recipe, stage by stage: speech, codec, language model, served directory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import XcodecModel

from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.clips import Clips
from sglang_speechlm.demo.recipe.codec import Quantizer, log_mel, new_codec, train_decoder, train_encoder
from sglang_speechlm.demo.recipe.draws import Draws
from sglang_speechlm.demo.recipe.examples import Layout, voiced
from sglang_speechlm.demo.recipe.export import export
from sglang_speechlm.demo.recipe.files import save
from sglang_speechlm.demo.recipe.hearing import train_hearing
from sglang_speechlm.demo.recipe.language_model import Trainee
from sglang_speechlm.demo.recipe.requests import Requests
from sglang_speechlm.demo.recipe.speech import load_speech, spoken_texts, write_speech
from sglang_speechlm.demo.recipe.synthesis import Utterance
from sglang_speechlm.demo.recipe.train import Plan, Supply, train
from sglang_speechlm.demo.recipe.vocabulary import new_config, write_tokenizer

_TOKENIZER_TURNS = 20_000


@dataclass(frozen=True)
class Recipe:
    """One run of the recipe.

    Attributes:
        work: directory of the stages' results.
        output: the served directory.
        sentences: number of spoken sentences, without the held-out ones.
        decoder_steps, encoder_steps: training steps of the codec's two halves.
        hearing_steps: training steps of the audio encoder, in the middle of the language model's.
        steps: training steps of the language model.
    """

    work: Path
    output: Path
    sentences: int = 8000
    decoder_steps: int = 1200
    encoder_steps: int = 300
    hearing_steps: int = 1500
    steps: int = 2500
    seed: int = 0

    def make(self) -> Path:
        """Run the stages that have not run yet, and return the served directory."""
        self.work.mkdir(parents=True, exist_ok=True)
        self.output.mkdir(parents=True, exist_ok=True)
        write_speech(self.work, self.sentences)
        codec, codes = self._codec()
        model = self._language_model(codes)
        return export(model, codec, self.output)

    @cached_property
    def _spoken(self) -> list[Utterance]:
        return load_speech(self.work / "spoken.npz")

    def _codec(self) -> tuple[XcodecModel, list[torch.Tensor]]:
        """Return the codec, and the codes [frames, streams] of all spoken texts."""
        codec, file = new_codec(), self.work / "codec.pt"
        if not file.exists():
            sounds = [utterance.samples for utterance in self._spoken]
            mels = [log_mel(sound) for sound in sounds]
            quantizer = Quantizer.fit(torch.cat(mels), codec, self.seed)
            codes = [quantizer.codes(mel) for mel in mels]
            train_decoder(codec, codes, sounds, steps=self.decoder_steps, seed=self.seed)
            components = [quantizer.components(mel) for mel in mels]
            train_encoder(codec, components, sounds, steps=self.encoder_steps, seed=self.seed)
            held_out = [
                quantizer.codes(log_mel(utterance.samples)) for utterance in load_speech(self.work / "held_out.npz")
            ]
            save(file, {"codec": codec.state_dict(), "codes": codes, "held_out": held_out})
        saved = torch.load(file, weights_only=True)
        codec.load_state_dict(saved["codec"])
        return codec, saved["codes"]

    def _language_model(self, codes: list[torch.Tensor]) -> Trainee:
        phones = sorted({name for utterance in self._spoken for name, _ in utterance.phones})
        speech = [voiced(utterance, code.numpy(), phones) for utterance, code in zip(self._spoken, codes, strict=True)]
        sentences, held_out = corpus.split(self.sentences)
        draws = Draws(self.seed)
        requests = Requests(held_out, draws.choices)
        config = new_config()
        turns = [requests.exchange() for _ in range(_TOKENIZER_TURNS)]
        texts = [text for turn in turns for text in (turn.user, turn.reply)] + spoken_texts(sentences)
        tokenizer = write_tokenizer(self.output, config, texts)
        layout = Layout(config, tokenizer, Tokenizer.from_file(str(self.output / "tokenizer.json")), len(phones))
        model = Trainee(config, len(phones))
        plan = Plan(steps=self.steps)
        fixed, others = len(corpus.fixed_answers()), len(spoken_texts([]))
        by_kind = (speech[:fixed], speech[fixed:others], speech[others:])
        clips = Clips(self.work, config, draws)
        supply = Supply(layout, by_kind, requests, clips, draws, plan, config.num_stream)
        hearing = partial(train_hearing, model, clips, layout, self.hearing_steps, self.work / "hearing.pt")
        train(model, supply, plan, self.work / "model.pt", hearing)
        return model
