"""``speechlm client``: send a question to a running server, print the text, and write the sound if a file is given."""

from __future__ import annotations

import argparse
import base64
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

_SECONDS = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Send the question; return 0, or 1 if there was no answer or no sound to write."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.text and options.clip is None:
        parser.error("give a text, a --clip, or both")
    headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
    try:
        response = httpx.post(
            f"{options.url.rstrip('/')}/chat/completions", json=_body(options), headers=headers, timeout=_SECONDS
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        print(f"error: {options.url}: {error}", file=sys.stderr)
        return 1
    except UnicodeEncodeError as error:
        print(f"error: the key must be ASCII, and the text Unicode: {error}", file=sys.stderr)
        return 1
    if response.status_code != 200:
        print(f"error: {options.url}: {response.status_code}: {response.text}", file=sys.stderr)
        return 1
    try:
        message = response.json()["choices"][0]["message"]
        print(message["content"])
    except (ValueError, LookupError, TypeError):
        print(f"error: {options.url}: not a chat answer: {response.text[:200]}", file=sys.stderr)
        return 1
    for warning in message.get("speechlm", {}).get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    if options.output is not None:
        if not message.get("audio"):
            print(f"error: {options.output}: not written; the answer has no sound", file=sys.stderr)
            return 1
        try:
            with options.output.open("xb") as file:
                file.write(base64.b64decode(message["audio"]["data"]))
        except OSError as error:
            print(f"error: {options.output}: {error.strerror}", file=sys.stderr)
            return 1
    return 0


def _body(options: argparse.Namespace) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if options.clip is not None:
        clip = {"data": base64.b64encode(options.clip.read_bytes()).decode(), "format": options.clip.suffix[1:].lower()}
        content.append({"type": "input_audio", "input_audio": clip})
    if options.text:
        content.append({"type": "text", "text": options.text})
    body: dict[str, Any] = {"messages": [{"role": "user", "content": content}]}
    body |= {name: value for name in ("model", "max_tokens") if (value := getattr(options, name)) is not None}
    if options.output is not None:
        body |= {"modalities": ["text", "audio"], "audio": {"format": "wav"}}
    return body


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="speechlm client", description=__doc__)
    parser.add_argument("text", nargs="?", help="the question")
    parser.add_argument("--clip", type=_readable, metavar="FILE", help="a recording, placed before the text")
    parser.add_argument(
        "--output", type=_new, metavar="FILE", help="speak the answer and write it to this new WAV file"
    )
    parser.add_argument("--model", metavar="NAME", help="name of the model (default: the server's own)")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="limit on text tokens plus audio frames")
    parser.add_argument(
        "--url",
        default=os.environ.get("OPENAI_BASE_URL") or "http://127.0.0.1:9000/v1",
        help="base URL of the server (default: %(default)s, or OPENAI_BASE_URL)",
    )
    parser.add_argument(
        "--api-key",
        default=os.environ.get("OPENAI_API_KEY", ""),
        help="API key of the server (default: OPENAI_API_KEY)",
    )
    return parser


def _readable(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"must be a file; got {name!r}")
    return path


def _new(name: str) -> Path:
    """Parse the path of a new file in an existing folder, so that nothing is overwritten and no answer is wasted."""
    path = Path(name)
    if path.exists() or path.is_symlink():
        raise argparse.ArgumentTypeError(f"{name!r} already exists; name a new file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder of {name!r} does not exist")
    return path


if __name__ == "__main__":
    sys.exit(main())
