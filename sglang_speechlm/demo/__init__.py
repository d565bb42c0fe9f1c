"""The demonstration: a small trained model, and a conversation with it over HTTP."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
"""The served directory that ``python -m sglang_speechlm.recipe`` made; its README.md tells what it can do."""
GUIDANCE = 1.5
"""The scale at which the fewest of its words are misheard (``benchmarks/voice.py``)."""
