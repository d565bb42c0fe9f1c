"""URLs of clips, and damaged sound files."""

from __future__ import annotations

import base64
import io
import json
import random
import time
from collections.abc import Iterator

import httpx
import numpy as np
import soundfile

from sglang_speechlm.audio import AudioError, decode_clip

from .ledger import Ledger
from .target import CHAT, Canary, Target

_FORMATS = (
    ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAV", "ULAW"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_24"), ("AU", "PCM_16"), ("CAF", "ALAC_16"), ("W64", "PCM_16"),
)  # fmt: skip
_STARTS = (b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom", b"\x1a\x45\xdf\xa3", b"\xff\xf1\x50\x80", b"#!AMR\n")
_RATE = 16000


def _chat_with(url: str) -> dict[str, object]:
    part = {"type": "audio_url", "audio_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}


def clip_urls(target: Target, ledger: Ledger) -> None:
    """Send URLs that the operator did not allow: each is refused, and nothing is fetched."""
    area = f"{target.name}: URLs of clips"
    canary = Canary()
    port = canary.port
    urls = (
        "file:///etc/passwd", "file://localhost/etc/passwd", "FILE:///etc/passwd", "file:/etc/passwd", "/etc/passwd",
        f"http://127.0.0.1:{port}/", f"http://localhost:{port}/a.wav", f"http://[::1]:{port}/", f"http://0:{port}/",
        f"http://2130706433:{port}/", f"http://0x7f.1:{port}/", f"http://0177.0.0.1:{port}/", f"http://127.1:{port}/",
        f"http://[::ffff:127.0.0.1]:{port}/", f"http://user@127.0.0.1:{port}/",
        f"http://example.com@127.0.0.1:{port}/", f"http://127.0.0.1:{port}#@example.com/",
        f"http://127.0.0.1%2f@example.com:{port}/", f"https://127.0.0.1:{port}/", f"HtTp://127.0.0.1:{port}/",
        f"http:\\\\127.0.0.1:{port}\\", f"//127.0.0.1:{port}/", f"ftp://127.0.0.1:{port}/",
        f"gopher://127.0.0.1:{port}/_x", f"dict://127.0.0.1:{port}/", "http://169.254.169.254/latest/meta-data/",
        "http://[fd00::1]/", "http://10.0.0.1/", "jar:http://x!/", "data:,", "data:audio/wav;base64,",
        "data:text/html,x", "data:audio/wav;base64," + "A" * 100, "", " ", "http://", "http://:80/",
        "http://a" + "a" * 5000 + "/", "\0", f"http://127.0.0.1:{port}/\r\nX: y", f" http://127.0.0.1:{port}/",
        f"http://127。0。0。1:{port}/", f"http://①②⑦.0.0.1:{port}/",
    )  # fmt: skip
    with target.client() as client:
        for url in urls:
            response = client.post(CHAT, json=_chat_with(url))
            passed = response.status_code == 400 and not canary.visits
            ledger.check(area, passed, f"{url[:60]!r}: {response.status_code} {response.text[:120]}")
    time.sleep(0.5)
    ledger.check(area, canary.visits == 0, f"{canary.visits} connections to this machine")
    canary.close()


def _seeds() -> list[bytes]:
    samples = (np.sin(np.arange(_RATE // 8) * 0.3) * 0.3).astype(np.float32)
    files = []
    for kind, subtype in _FORMATS:
        file = io.BytesIO()
        soundfile.write(file, samples, _RATE, format=kind, subtype=subtype)
        files.append(file.getvalue())
    # For FFmpeg's formats, only the beginning of a file, which is damaged further.
    files += [start + bytes(200) for start in _STARTS]
    return files


def damaged(seed: int) -> Iterator[bytes]:
    """Yield damaged sound files without end: with bytes changed, removed, repeated, appended and inserted."""
    generator = random.Random(seed)
    seeds = _seeds()
    while True:
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.randrange(1, 8)):
            # Most errors are possible in the first bytes.
            place = int(len(data) * generator.random() ** 3)
            match generator.randrange(6):
                case 0:
                    data[place : place + 1] = bytes([generator.randrange(256)])
                case 1:
                    data[place : place + 4] = generator.choice(
                        (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\1\0\0\0")
                    )
                case 2:
                    del data[place : place + generator.randrange(1, 64)]
                case 3:
                    data[place:place] = data[place : place + generator.randrange(1, 64)]
                case 4:
                    data += generator.choice(seeds)[: generator.randrange(1, 400)]
                case _:
                    data[place:place] = generator.randbytes(generator.randrange(1, 16))
            if not data:
                data = bytearray(b"\0")
        yield bytes(data)


def decode_damaged(ledger: Ledger, count: int, seconds: float, seed: int) -> None:
    """Decode damaged files in this process: each gives a clip or an ``AudioError``, nothing else."""
    area = "damaged sound files, decoded"
    deadline = time.monotonic() + seconds
    for number, data in enumerate(damaged(seed)):
        if number == count or time.monotonic() > deadline:
            return
        problem = ""
        try:
            decode_clip(data)
        except AudioError:
            pass
        except Exception as error:
            problem = f"{type(error).__name__}: {error}; {data[:40].hex()}"
        ledger.check(area, not problem, problem)


def damaged_over_http(target: Target, ledger: Ledger, count: int, seed: int) -> None:
    """Send damaged files in chat messages and forms: each gets a 200 or a 400 with a message."""
    area = f"{target.name}: damaged sound files, sent"
    files = damaged(seed)
    with target.client() as client:
        for number in range(count):
            data = next(files)
            try:
                if number % 2:
                    part = {
                        "type": "input_audio",
                        "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"},
                    }
                    body = {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}
                    response = client.post(CHAT, json=body)
                else:
                    form = {"model": "speechlm", "max_tokens": "1"}
                    response = client.post("/v1/audio/transcriptions", data=form, files={"file": ("a.wav", data)})
            except httpx.HTTPError as error:
                ledger.check(area, False, f"{type(error).__name__}: {error}; {data[:40].hex()}")
                continue
            passed = response.status_code == 200 or (response.status_code == 400 and bool(_message(response)))
            ledger.check(area, passed, f"{response.status_code} {response.text[:120]}; {data[:40].hex()}")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return ""
