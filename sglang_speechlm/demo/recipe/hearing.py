"""Train the audio tower to transcribe, after the language model has learned to read.

Without this, the language model's own loss only teaches it which transcripts are common, but not the one of a given
clip: the tower is too far from the loss.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from sglang_speechlm.demo.recipe.clips import Clips
from sglang_speechlm.demo.recipe.examples import Layout
from sglang_speechlm.demo.recipe.files import save
from sglang_speechlm.demo.recipe.language_model import HEARING, Trainee

_BATCH = 32
_RATE = 2e-3


def train_hearing(model: Trainee, clips: Clips, layout: Layout, steps: int, file: Path) -> None:
    """Fit the tower and the adaptor to the embeddings of the transcripts, or load them from ``file`` if it exists."""
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True), strict=False)
        return
    hearing = {name: parameter for name, parameter in model.named_parameters() if name.startswith(HEARING)}
    parameters = list(hearing.values())
    optimizer = torch.optim.AdamW(parameters, _RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, steps, pct_start=0.1)
    progress = tqdm(range(steps), desc="Hearing", unit="step")
    for _ in progress:
        chosen = [clips.clip() for _ in range(_BATCH)]
        heard = model.hear([torch.from_numpy(mel) for _, mel in chosen])
        loss = model.recognition_loss(heard, [torch.tensor(layout.transcript_ids(text)) for text, _ in chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    save(file, {name: parameter.detach() for name, parameter in hearing.items()})
