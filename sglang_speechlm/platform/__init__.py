"""The machine SGLang runs on: a plain CPU is an out-of-tree platform of ours, a CUDA machine is SGLang's own."""


def activate() -> str | None:
    """Entry point of group ``sglang.srt.platforms``: the class to use, or None where CUDA is present."""
    import torch

    if torch.cuda.is_available():
        return None
    return "sglang_speechlm.platform.cpu.CpuPlatform"
