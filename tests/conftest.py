"""Fixtures shared by all tests."""

import sglang_speechlm  # noqa: F401  (before transformers' models: they import torchvision, which needs its operators)
