"""Compares a server's answers with the reference, id by id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cases import Case
from .client import Client

if TYPE_CHECKING:
    from reference import Answer, Reference

MARGIN = 1e-3
"""Minimum lead of the best logit over the second at every step of every answer. Float32 rounding is 5e-5 here, so no
comparison of ids is too close to call; a checkpoint with a smaller margin needs another seed."""

_FRAMES = 40
"""Number of frames whose regrets are computed."""


class Judge:
    """Compares with one reference, which computes the answer to each case only once."""

    def __init__(self, reference: Reference, margin: float = MARGIN) -> None:
        self.reference, self._margin = reference, margin
        self._answers: dict[str, Answer] = {}

    @classmethod
    def load(cls, checkpoint: Path, margin: float = MARGIN) -> Judge:
        """Load the reference of a served directory."""
        from reference import Reference

        return cls(Reference.load(checkpoint), margin)

    def answer(self, case: Case, text_ids: Sequence[int] = (), codes: np.ndarray | None = None) -> Answer:
        """Return the reference's answer, which is computed faster if ``text_ids`` and ``codes`` are its ids."""
        if case.name not in self._answers:
            self._answers[case.name] = self.reference.answer(case.request, text_ids, codes)
        return self._answers[case.name]

    def compare(self, cases: Sequence[Case], responses: Sequence[Any]) -> int:
        """Return the number of ids compared; fail if any differs."""
        return sum(self._compare(case, response) for case, response in zip(cases, responses, strict=True))

    def _compare(self, case: Case, response: Any) -> int:
        (choice,) = response["choices"]
        message, usage = choice["message"], response["usage"]
        extension = message["speechlm"]
        codes = np.array(extension["codes"] or [], dtype=np.int64).reshape(-1, self.reference.ids.num_stream)
        answer = self.answer(case, extension["text_ids"], codes)
        place = f"in {case.name!r}"
        assert answer.margin > self._margin, place

        assert extension["text_ids"] == answer.text_ids, f"text {place}"
        content = case.request.text or self.reference.tokenizer.decode(answer.content_ids, skip_special_tokens=True)
        assert message["content"] == content, place
        expected = answer.codes if answer.codes is not None else codes[:0]
        same = min(len(codes), len(expected))
        different = np.argwhere(codes[:same] != expected[:same])
        assert not len(different), f"codes {place}: first at [frame, stream] {different[0].tolist()}"
        assert len(codes) == len(expected), f"codes {place}"

        assert choice["finish_reason"] == answer.end, place
        frames = 0 if answer.frames is None else len(answer.frames) + (answer.end == "stop")
        written = len(answer.text_ids) if case.request.text is None else 0
        assert usage["completion_tokens"] == written + frames, place
        assert usage["completion_tokens_details"]["audio_tokens"] == frames, place
        if case.request.speak:
            assert (message["audio"] is not None) == (len(expected) > 0), place
            assert any("no audio" in warning for warning in extension["warnings"]) == (len(expected) == 0), place
        else:
            assert "audio" not in message, place
        return len(answer.text_ids) + codes.size


def regrets(client: Client, reference: Reference, case: Case, text_ids: list[int]) -> Iterable[float]:
    """Yield the largest regret of a text and, where no clip precedes it, of raw frames after it.

    Guidance multiplies the branches' errors by ``cfg`` and ``cfg - 1``, so the regret of a guided frame is divided by
    their sum.
    """
    request = case.request
    hears = any(kind != "text" for _, parts in request.messages for kind, _ in parts)
    frames = None
    if request.speak and not hears and text_ids:
        frames = _raw_frames(client, reference, case, text_ids)
    forced = reference.teacher_forced_logits(request, text_ids, frames)
    yield float(forced.text_regrets.max()) if len(forced.text_regrets) else 0.0
    if forced.audio_regrets is not None and forced.audio_regrets.numel():
        yield float(forced.audio_regrets.max()) / (2 * request.cfg - 1)


def _raw_frames(client: Client, reference: Reference, case: Case, text_ids: list[int]) -> np.ndarray:
    """Return raw frames [F, num_stream] of a single audio stage, without the frame of eos."""
    request, ids = case.request, reference.ids
    before = [int(row[0]) for row in reference.prompt(request.messages)]
    least = ids.num_stream if request.audio_min_frames is None else request.audio_min_frames
    params = {"audio": True, "min_frames": least, "cfg": request.cfg}
    body = {
        "input_ids": [*before, ids.text, *text_ids, ids.assistant, ids.audio],
        "sampling_params": {"temperature": 0, "max_new_tokens": _FRAMES, "custom_params": params},
    }
    frames = client.generate(body)["meta_info"]["frames"]
    if frames[-1][0] == ids.eos:
        frames.pop()
    return np.array(frames, dtype=np.int64).reshape(-1, ids.num_stream)
