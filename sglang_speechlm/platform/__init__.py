"""The platform that SGLang runs on: this package's for a plain CPU, SGLang's own for any other machine."""

import os


def activate() -> str | None:
    """Return the platform class to use, or None for SGLang's own: entry point of group ``sglang.srt.platforms``.

    It also announces the model, because SGLang resolves its platform before it imports the module that reads the
    variables for models outside its tree.
    """
    import torch

    from sglang_speechlm.model import announce

    announce()
    if torch.cuda.is_available() or torch.xpu.is_available() or os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        return None
    return "sglang_speechlm.platform.cpu.CpuPlatform"
