"""Request spoken answers with guidance (--cfg 1: without), and keep random samples as WAV files."""

import sys

from core.command import main
from core.options import Defaults

DEFAULTS = Defaults(
    __doc__ or "",
    ("audiogen_cfg",),
    port=9001,
    concurrency=512,
    output="test/output/audiogen_cfg{cfg}.jsonl",
    save_dir="test/hard",
    num_examples=1000,
)

if __name__ == "__main__":
    sys.exit(main(DEFAULTS))
