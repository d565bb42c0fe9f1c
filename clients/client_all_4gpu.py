"""Request text, spoken and guided answers all at once, from a server on four GPUs."""

import sys

from core.command import main
from core.options import TASKS, Defaults

DEFAULTS = Defaults(
    __doc__ or "",
    TASKS,
    port=9001,
    concurrency=512,
    output="test/output/all_4gpu_cfg{cfg}.jsonl",
    save_dir="test/all_4gpu",
    num_examples=1000,
)

if __name__ == "__main__":
    sys.exit(main(DEFAULTS))
