"""The random numbers of the training, which an interrupted run resumes where it stopped."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np


class Draws:
    """Two random generators.

    Attributes:
        choices: for texts, turns and clips.
        numbers: for noise and hidden positions.
    """

    def __init__(self, seed: int) -> None:
        self.choices = Random(seed)
        self.numbers = np.random.default_rng(seed)

    @property
    def state(self) -> dict[str, Any]:
        """Return the states of both, in plain numbers."""
        return {"choices": self.choices.getstate(), "numbers": self.numbers.bit_generator.state}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.choices.setstate(state["choices"])
        self.numbers.bit_generator.state = state["numbers"]
