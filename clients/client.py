"""Request text answers to texts and audio, with accuracy if the correct answers are known (MMAU)."""

import sys

from core.command import main
from core.options import Defaults

if __name__ == "__main__":
    sys.exit(main(Defaults(__doc__ or "", ("text",), port=9001, concurrency=512, output="test/output/text.jsonl")))
