"""Requests of every kind, for the reference and as the body that a client sends."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from reference import Message, Part, Request

SAMPLE_RATE = 16000
BUDGET = 220
LONG_TEXT = "Tell me, slowly and clearly, what the river said to the grey cat in the night. " * 6


@dataclass(frozen=True)
class Case:
    """A greedy request with a name."""

    name: str
    request: Request

    def __str__(self) -> str:
        return self.name

    def body(self, **speechlm: Any) -> dict[str, Any]:
        """Return the body of POST /v1/chat/completions; ``speechlm`` adds fields to the object of that name."""
        request = self.request
        fields = {
            "mode": "text_audio" if request.speak else None,
            "text": request.text,
            "text_max_tokens": request.text_max_tokens,
            "audio_max_frames": request.audio_max_frames,
            "audio_min_frames": request.audio_min_frames,
            "cfg": request.cfg,
            "return_ids": True,
            **speechlm,
        }
        body: dict[str, Any] = {
            "messages": [{"role": role, "content": _content(parts)} for role, parts in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": 0,
            "speechlm": {name: value for name, value in fields.items() if value is not None},
        }
        if request.stop_token_ids:
            body["stop_token_ids"] = list(request.stop_token_ids)
        return body


def clip(number: int, seconds: float) -> np.ndarray:
    """Return a sound that depends on ``number``: float32 [n] at 16 kHz, exact in 16-bit samples."""
    random = np.random.default_rng(number)
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitches = random.uniform(80, 3000, size=4)
    tones = sum(np.sin(2 * np.pi * pitch * time * (1 + 0.1 * time)) for pitch in pitches) / 10
    samples = np.round((tones + random.normal(size=time.shape) * 0.02) * 32768)
    return (samples / 32768).astype(np.float32)


def wav(samples: np.ndarray) -> str:
    """Return a 16-bit WAV file in base64."""
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def _content(parts: Any) -> Any:
    if len(parts) == 1 and parts[0][0] == "text":
        return parts[0][1]
    return [_part(part) for part in parts]


def _part(part: Part) -> dict[str, Any]:
    kind, content = part
    if kind == "text":
        return {"type": "text", "text": content}
    assert isinstance(content, np.ndarray)
    return {"type": "input_audio", "input_audio": {"data": wav(content), "format": "wav"}}


def _system(*parts: Part) -> Message:
    return ("system", parts)


def _user(*parts: Part) -> Message:
    return ("user", parts)


def _assistant(text: str) -> Message:
    return ("assistant", [("text", text)])


def _text(text: str) -> Part:
    return ("text", text)


def _clip(number: int, seconds: float) -> Part:
    return ("audio", clip(number, seconds))


_HELPFUL = _system(_text("You are a helpful assistant."))
_READ_ALOUD = [_HELPFUL, _user(_text("Read this aloud in a calm voice."))]


def _case(name: str, messages: list[Message], *, max_tokens: int = BUDGET, **request: Any) -> Case:
    return Case(name, Request(messages, max_tokens=max_tokens, **request))


CASES: list[Case] = [
    _case("text", [_HELPFUL, _user(_text("What is machine learning?"))]),
    _case("spoken", _READ_ALOUD, speak=True),
    _case("audio question", [_HELPFUL, _user(_clip(1, 2.0)), _user(_text("What sound is in this audio?"))]),
    _case("spoken answer to audio", [_user(_clip(2, 1.3), _text("Say what you hear."))], speak=True),
    _case(
        "clips in system and user turns",
        [_system(_clip(3, 0.5), _text("Like this.")), _user(_clip(4, 1.0), _clip(5, 0.7)), _user(_text("Which?"))],
        speak=True,
    ),
    _case(
        "history",
        [_user(_text("How many planets?")), _assistant("There are eight of them."), _user(_text("Name one."))],
    ),
    _case(
        "spoken after history",
        [_HELPFUL, _user(_clip(6, 0.9)), _assistant("A door closes."), _user(_text("And then?"))],
        speak=True,
    ),
    _case("guided", _READ_ALOUD, speak=True, cfg=3.0),
    _case("given text", _READ_ALOUD, speak=True, text="One, two, three, four. How are you today?"),
    _case("given text after audio", [_user(_clip(7, 1.1))], speak=True, text="Yes! I can hear a piano!"),
    _case("text cut by text_max_tokens", _READ_ALOUD, speak=True, text_max_tokens=3),
    _case("audio cut by audio_max_frames", [_user(_text("Short, please."))], speak=True, audio_max_frames=11),
    _case("audio_min_frames", [_user(_text("At length, please."))], speak=True, audio_min_frames=70),
    _case("audio cut by max_tokens", [_user(_text("Say it all."))], speak=True, max_tokens=36, audio_min_frames=30),
    _case("text uses up max_tokens", [_user(_text("Say nothing."))], speak=True, max_tokens=2),
    _case("stop_token_ids", [_HELPFUL, _user(_text("Stop at the end of the turn."))], stop_token_ids=(3,)),
    _case("long prompt", [_system(_text(LONG_TEXT)), _user(_clip(8, 6.0), _text("Go on."))], speak=True),
    _case("odd text", [_user(_text("! <|assistant|> <|eot|>\n\t你好 🙂 !!"))], speak=True),
    _case("several parts of one role", [_user(_text("One."), _text("Two."), _text("Three.")), _user(_text("Four."))]),
    _case("guided answer to audio", [_user(_clip(12, 1.7), _text("Say it again."))], speak=True, cfg=1.5),
    _case("same clip twice", [_user(_clip(9, 0.8), _clip(9, 0.8), _text("Are they the same?"))], speak=True),
    _case("clip longer than 30 s", [_user(_clip(10, 31.0)), _user(_text("How long is it?"))], max_tokens=60),
    _case("too few frames for a sound", _READ_ALOUD, speak=True, audio_max_frames=5, text_max_tokens=8),
    _case("audio may end at once", [_user(_text("Be quiet."))], speak=True, audio_min_frames=0),
    _case("guided, given text", [_user(_text("Say this."))], speak=True, text="Once more!", cfg=6.5),
    _case("ends with the assistant", [_user(_text("Go on.")), _assistant("Once upon a time")], speak=True),
    _case("clip after text", [_user(_text("Listen to this:"), _clip(11, 2.6)), _user(_text("What was it?"))]),
]
"""Ordered so that neighbours differ in kind."""

BY_NAME: dict[str, Case] = {case.name: case for case in CASES}
