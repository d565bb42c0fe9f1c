"""The one place that touches SGLang's internals (0.5.23): ``HOOKS`` lists every hook.

A new SGLang version affects this folder and the classes that SGLang calls through its extension points (``platform/``
and ``model/``). Nothing else imports ``sglang.srt``.
"""

from __future__ import annotations

RADIX_BACKEND = "speechlm"
"""Value of SGLang's --radix-cache-backend for this package's radix cache."""

GRAMMAR_BACKEND = "speechlm"
"""Value of SGLang's --grammar-backend for this package's grammars."""


def register() -> None:
    """Register the plugin: entry point of group ``sglang.srt.plugins``, called in every process of SGLang's."""
    from sglang_speechlm.sglang_hooks.registry import register_all

    register_all()
