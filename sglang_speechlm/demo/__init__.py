"""The demonstration: a small trained model, and a conversation with it over HTTP."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""The served directory made by ``python -m sglang_speechlm.recipe``; its README.md says what it can do."""
GUIDANCE = 1.5
"""The scale with the lowest word error rate (``benchmarks/voice.py``)."""
