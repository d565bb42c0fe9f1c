"""Muon: steps along the orthogonalised momentum of a matrix (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

torch has it too, but computes in bfloat16 only, which takes thirty times as long on a processor without bfloat16.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Coefficients of x, x^3 and x^5: a few steps bring singular values up to 1 close to 1 (Jordan et al. 2024)."""
_TURNS = 5
_MOMENTUM = 0.95
_LIKE_ADAM = 0.2
"""Root mean square of a step in units of the rate, as for Adam (Liu et al. 2025, arXiv:2502.16982)."""


class Muon(torch.optim.Optimizer):
    """The Muon optimizer, for the matrices inside a network; use Adam for everything else.

    Args:
        lr: learning rate, on the scale of Adam's.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # takes no closure
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            rate = group["lr"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - _MOMENTUM)
                ahead = parameter.grad.lerp(momentum, _MOMENTUM)  # Nesterov momentum
                size = _LIKE_ADAM * max(parameter.shape) ** 0.5
                parameter.mul_(1 - rate * group["weight_decay"]).add_(orthogonal(ahead), alpha=-rate * size)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return about the nearest (semi-)orthogonal matrix: singular values of 0.7 to 1.2, by Newton-Schulz iteration."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonal(matrix.T).T
    a, b, c = _COEFFICIENTS
    wide = matrix / matrix.norm().clamp_min(1e-7)
    for _ in range(_TURNS):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=b, alpha=c), wide, beta=a)
    return wide
