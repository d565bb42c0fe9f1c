"""SGLang on a machine without a GPU: scheduler, radix cache and server unchanged, attention in plain torch."""

from __future__ import annotations

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform
from typing_extensions import override


class CpuPlatform(CpuDeviceMixin, SRTPlatform):
    """A CPU platform without compiled kernels."""

    _enum = PlatformEnum.OOT

    @override
    def get_device(self, device_id: int = 0) -> str:
        """Return the device as a string, because SGLang's argument parsing splits the name of an out-of-tree device."""
        return self.device_type

    @override
    def get_default_attention_backend(self) -> str:
        return "torch_native"

    @override
    def get_torch_profiler_activity_str(self) -> str:
        """Return the name in requests for profiles."""
        return "CPU"

    @override
    def get_torch_profiler_activity(self) -> torch.profiler.ProfilerActivity:
        """Return the profiler's activity for this device."""
        return torch.profiler.ProfilerActivity.CPU
