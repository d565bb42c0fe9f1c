"""Print what a server without a GPU has imported of torch's compiler, and that it can still be imported.

The argument is a folder for a checkpoint.
"""

import sys
from importlib import import_module
from pathlib import Path

from sglang_speechlm.platform.torch_compiler import compile_nothing

_SERVERS = (
    "sglang_speechlm.server.lifetime.start",
    "sglang_speechlm.sglang_hooks.registry",
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
)


def main(folder: Path) -> None:
    """Import the modules of a server, load a codec, and then import the compiler."""
    compile_nothing()
    for name in _SERVERS:
        import_module(name)
    from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint, expected_tensors
    from sglang_speechlm.codec.worker.xcodec import load_xcodec

    config = CheckpointSpec().config()
    expected_tensors(config)
    load_xcodec(build_checkpoint(folder, spec=CheckpointSpec()), config, "cpu")
    print(sorted({"torch._dynamo", "torch._inductor"} & sys.modules.keys()))

    import torch._dynamo.utils as compiler

    print(compiler.is_compile_supported("cpu"), compiler.config.suppress_errors)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
