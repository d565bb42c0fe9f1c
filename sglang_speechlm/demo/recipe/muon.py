"""Muon: steps along the momentum of a matrix made orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch has it too, but computes it in bfloat16 only, which takes thirty times as long on a processor without it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Of x, x^3 and x^5, by which every singular value of up to 1 comes to about 1 in a few turns (Jordan et al. 2024)."""
_TURNS = 5
_MOMENTUM = 0.95
_LIKE_ADAM = 0.2
"""Root mean square of a step in units of the rate: that of Adam's (Liu et al. 2025, arXiv:2502.16982)."""


class Muon(torch.optim.Optimizer):
    """For the matrices inside a network; all else is for Adam.

    Args:
        lr: on the scale of Adam's.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            rate = group["lr"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - _MOMENTUM)
                ahead = parameter.grad.lerp(momentum, _MOMENTUM)  # Nesterov's
                size = _LIKE_ADAM * max(parameter.shape) ** 0.5
                parameter.mul_(1 - rate * group["weight_decay"]).add_(orthogonal(ahead), alpha=-rate * size)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: singular values of 0.7 to 1.2, by Newton-Schulz iteration."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    a, b, c = _COEFFICIENTS
    wide = matrix / matrix.norm().clamp_min(1e-7)
    for _ in range(_TURNS):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide
