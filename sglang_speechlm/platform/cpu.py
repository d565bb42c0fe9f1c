"""SGLang on a machine without a GPU: scheduler, radix cache and server as they are, attention in plain torch."""

from __future__ import annotations

from typing import Any

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform
from typing_extensions import override

# SGLang resolves the platform while its own modules are still being imported, so its classes are imported late here.


class CpuPlatform(CpuDeviceMixin, SRTPlatform):
    """A CPU for which SGLang needs no compiled kernels."""

    _enum = PlatformEnum.OOT

    @override
    def get_device(self, device_id: int = 0) -> str:
        """SGLang's argument parsing takes the name of an out-of-tree platform's device apart as a string."""
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
    def get_dispatch_key_name(self) -> str:
        return "native"


def _token_allocator(size: int, *, page_size: int, **kwargs: Any) -> Any:
    """SGLang's token allocator, called as it calls the one of an out-of-tree platform.

    Raises:
        ValueError: for a page size other than 1.
    """
    from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator

    if page_size != 1:
        raise ValueError(f"--page-size must be 1 on the CPU, got {page_size}")
    return TokenToKVPoolAllocator(size, **kwargs)
