"""The audio tower, taught to tell what is said once the language model can read.

Without that, the language model's own loss teaches it what is said in clips, and never what is said in this one: the
tower is far from the loss.
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
    """Fit the tower and the adaptor to the embeddings of what is said, or take them from ``file`` if they are there."""
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True), strict=False)
        return
    hearing = {name: parameter for name, parameter in model.named_parameters() if name.startswith(HEARING)}
    parameters = list(hearing.values())
    optimizer = torch.optim.AdamW(parameters, _RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, steps, pct_start=0.1)
    progress = tqdm(range(steps), desc="Hearing", unit="step")
    for _ in progress:
        chosen = [clips.one() for _ in range(_BATCH)]
        heard = model.hear([torch.from_numpy(mel) for _, mel in chosen])
        loss = model.recognition_loss(heard, [torch.tensor(layout.said(text)) for text, _ in chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    save(file, {name: parameter.detach() for name, parameter in hearing.items()})
