"""SGLang on a machine without a GPU: scheduler, radix cache and server unchanged, attention in plain torch."""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform
from typing_extensions import override

# SGLang resolves the platform while its own modules are still being imported, so this module imports its classes late.


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
    def get_mha_kv_pool_cls(self) -> type:
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        return MHATokenToKVPool

    @override
    def get_paged_allocator_cls(self) -> Any:
        return _token_allocator

    @override
    def get_torch_profiler_activity_str(self) -> str:
        """Return the name in requests for profiles."""
        return "CPU"

    @override
    def get_torch_profiler_activity(self) -> torch.profiler.ProfilerActivity:
        """Return the profiler's activity for this device."""
        return torch.profiler.ProfilerActivity.CPU

    @override
    def get_dispatch_key_name(self) -> str:
        return "native"


def _token_allocator(size: int, *, page_size: int, **kwargs: Any) -> Any:
    """Create SGLang's token allocator, with the signature for out-of-tree platforms.

    Raises:
        ValueError: for a page size other than 1.
    """
    from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator

    if page_size != 1:
        raise ValueError(f"--page-size must be 1 on the CPU, got {page_size}")
    return TokenToKVPoolAllocator(size, **kwargs)
