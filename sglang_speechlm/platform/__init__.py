"""The machine SGLang runs on: a plain CPU is an out-of-tree platform of ours, any other is SGLang's own."""

import os


def activate() -> str | None:
    """Entry point of group ``sglang.srt.platforms``: the class to use, or None where SGLang has a platform of its own.

    SGLang resolves its platform before it imports what reads where models outside its tree are.
    """
    import torch

    from sglang_speechlm.sglang_hooks import announce

    announce()
    if torch.cuda.is_available() or torch.xpu.is_available() or os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        return None
    return "sglang_speechlm.platform.cpu.CpuPlatform"
