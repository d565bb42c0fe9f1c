"""The recipe's last stage: train the language model on written, spoken and heard exchanges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sglang_speechlm.demo.recipe.clips import Clips
from sglang_speechlm.demo.recipe.draws import Draws
from sglang_speechlm.demo.recipe.examples import Batch, Example, Layout, Voiced, collate
from sglang_speechlm.demo.recipe.files import save
from sglang_speechlm.demo.recipe.language_model import HEARING, LAYERS, Trainee
from sglang_speechlm.demo.recipe.muon import Muon
from sglang_speechlm.demo.recipe.requests import Requests

_UNCONDITIONAL = 0.1
_HEARING_SHARES = (0.3, 0.03)
"""Shares of the learning rate for the hearing parameters, before and after their own training; more spoils them."""
_WRITTEN = 4
"""One batch in four is written, three are heard, because hearing is harder to learn."""
_ASKED_ALOUD = 0.3
"""Share of spoken requests among the spoken exchanges for which there is a clip."""
_SPOKEN_OF = (0.35, 0.1, 0.55)
"""Shares of fixed answers, of answers about clips and of sentences: each fixed answer is one text among thousands, and
many words occur in no other."""
_WEIGHT_DECAY = 0.02

_SAVED = 100
"""Steps between two saves; an interruption loses no more than these."""


@dataclass(frozen=True)
class Plan:
    """The size of the training."""

    steps: int
    spoken: int = 20
    written: int = 20
    heard: int = 8
    rate: float = 5e-3
    warm_up: int = 40


class Supply:
    """An endless supply of batches.

    Args:
        speech: the spoken texts: fixed answers, answers about clips, and sentences.
        draws: the random generators, shared with ``requests`` and ``clips``.
    """

    def __init__(
        self,
        layout: Layout,
        speech: Sequence[Sequence[Voiced]],
        requests: Requests,
        clips: Clips,
        draws: Draws,
        plan: Plan,
        streams: int,
    ) -> None:
        self._layout, self._speech, self._requests, self._clips = layout, speech, requests, clips
        self.draws, self._plan, self._streams = draws, plan, streams
        self._random = draws.numbers

    def spoken(self) -> tuple[Batch, torch.Tensor]:
        """Return a batch of spoken exchanges, and which of its positions are hidden."""
        random = self._random
        chosen = []
        for kind in random.choice(len(_SPOKEN_OF), self._plan.spoken * 10, p=_SPOKEN_OF):
            pool = self._speech[kind]
            chosen.append(pool[int(random.integers(len(pool)))])
        # Sorted by length, so that there is little padding.
        chosen.sort(key=lambda speech: len(speech.codes))
        begin = int(random.integers(10)) * self._plan.spoken
        examples = [self._spoken(speech) for speech in chosen[begin : begin + self._plan.spoken]]
        batch = collate(examples)
        self._spoil(batch.frames)
        return batch, self._hide(batch)

    def written(self) -> Batch:
        """Return a batch of exchanges in text."""
        return collate([self._written() for _ in range(self._plan.written)])

    def heard(self) -> Batch:
        """Return a batch of exchanges about clips, answered in text."""
        examples = []
        for _ in range(self._plan.heard):
            exchange, transcript, mel, first = self._clips.exchange()
            examples.append(
                self._layout.written(self._layout.turn(exchange, mel, text_first=first), exchange.reply, transcript)
            )
        return collate(examples)

    def _written(self) -> Example:
        exchange = self._requests.exchange()
        return self._layout.written(self._layout.turn(exchange), exchange.reply)

    def _spoken(self, speech: Voiced) -> Example:
        unconditional = self._random.random() < _UNCONDITIONAL
        clip = self._clips.answered(speech.text) if self._random.random() < _ASKED_ALOUD else None
        if clip is None:
            prompt = self._layout.turn(self._requests.answered(speech.text))
            return self._layout.spoken(prompt, speech, unconditional=unconditional)
        exchange, heard, mel = clip
        return self._layout.spoken(self._layout.turn(exchange, mel), speech, heard, unconditional=unconditional)

    def _spoil(self, frames: torch.Tensor) -> None:
        """Replace some codes by those of other frames, as sampling errors do."""
        random = torch.Generator().manual_seed(int(self._random.integers(2**62)))
        is_frame = frames[..., 1] != 0
        rows = frames[is_frame]
        others = torch.stack(
            [rows[torch.randint(len(rows), (len(rows),), generator=random), s] for s in range(self._streams)], 1
        )
        rate = torch.rand(len(frames), generator=random) * 0.2 * (torch.rand(len(frames), generator=random) < 0.6)
        rates = rate[:, None].expand(frames.shape[:2])[is_frame]
        wrong = torch.rand(rows.shape, generator=random) < rates[:, None]
        frames[is_frame] = torch.where(wrong, others, rows)

    def _hide(self, batch: Batch) -> torch.Tensor:
        """Return bool [batch, length]: 10 to 50 % of the stretches of four frames, in 70 % of the examples."""
        random = self._random
        rows, length = batch.frames.shape[:2]
        rate = random.uniform(0.1, 0.5, rows) * (random.random(rows) < 0.7)
        stretches = random.random((rows, -(-length // 4))) < rate[:, None]
        hidden = np.repeat(stretches, 4, axis=1)[:, :length]
        return torch.from_numpy(hidden) & (batch.frames[..., 1] != 0)


def train(model: Trainee, supply: Supply, plan: Plan, state: Path, teach_hearing: Callable[[], None]) -> None:
    """Train until the plan is done; resume from ``state`` if it exists.

    Args:
        teach_hearing: called half-way. By then, the audio tower cannot transcribe yet, but without this start its own
            training takes several times as long.
    """
    by_kind: dict[str, list[torch.nn.Parameter]] = {"hearing": [], "matrices": [], "others": []}
    for name, parameter in model.named_parameters():
        is_matrix = name.startswith(LAYERS) and parameter.ndim == 2
        by_kind["hearing" if name.startswith(HEARING) else "matrices" if is_matrix else "others"].append(parameter)
    adam_groups = [{"params": by_kind["others"]}, {"params": by_kind["hearing"]}]
    adam = torch.optim.AdamW(adam_groups, plan.rate, betas=(0.9, 0.95), weight_decay=_WEIGHT_DECAY, fused=True)
    optimizers = (Muon(by_kind["matrices"], plan.rate, _WEIGHT_DECAY), adam)
    first, half_way = 0, plan.steps // 2
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, learned in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(learned)
        supply.draws.state, first = saved["draws"], saved["step"]
    shown: dict[str, str] = {}
    progress = tqdm(range(first, plan.steps), initial=first, total=plan.steps, desc="Language model", unit="step")
    for step in progress:
        if step == half_way:
            teach_hearing()
        share = min((step + 1) / plan.warm_up, 0.02 + 0.98 * min(1.0, (plan.steps - step) / (0.6 * plan.steps)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = plan.rate * share
        adam.param_groups[1]["lr"] *= _HEARING_SHARES[step >= half_way]
        model.zero_grad()
        batch, hide = supply.spoken()
        losses = model(batch, hide)
        losses.total.backward()
        other = "heard" if step % _WRITTEN else "written"
        answers = model(supply.heard() if step % _WRITTEN else supply.written())
        answers.total.backward()
        shown[other] = f"{answers.text.item():.3f}"
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        progress.set_postfix(
            sound=f"{losses.sound.item():.2f}",
            s0=f"{losses.by_stream[0].item():.2f}",
            align=f"{losses.alignment.item():.2f}",
            halfway=f"{losses.halfway.item():.2f}",
            **shown,
            refresh=False,
        )
        if (step + 1) % _SAVED == 0 or step + 1 == plan.steps:
            learned = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
            save(state, {**learned, "draws": supply.draws.state, "step": step + 1})
