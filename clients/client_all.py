"""Request text, spoken and guided answers all at once, from a server on one GPU."""

import sys

from core.command import main
from core.options import TASKS, Defaults

DEFAULTS = Defaults(
    __doc__ or "",
    TASKS,
    port=9000,
    concurrency=128,
    output="test/output/all_cfg{cfg}.jsonl",
    save_dir="test/all",
    num_examples=1000,
)

if __name__ == "__main__":
    sys.exit(main(DEFAULTS))
