"""What training draws at random, so that a run that was interrupted draws on from where it was."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np


class Draws:
    """Two sources of chance.

    Attributes:
        choices: of texts, turns and clips.
        numbers: of noise and of what is hidden.
    """

    def __init__(self, seed: int) -> None:
        self.choices = Random(seed)
        self.numbers = np.random.default_rng(seed)

    @property
    def state(self) -> dict[str, Any]:
        """Where both are, in plain numbers."""
        return {"choices": self.choices.getstate(), "numbers": self.numbers.bit_generator.state}

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self.choices.setstate(state["choices"])
        self.numbers.bit_generator.state = state["numbers"]
