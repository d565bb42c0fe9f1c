"""One stage of the program as an ordinary SGLang request, run inside the serving process."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from sglang.srt.managers.io_struct import GenerateReqInput

from sglang_speechlm.prompt.layout import Prompt
from sglang_speechlm.sampler.backend import FRAMES


class StageRefused(Exception):
    """SGLang did not run a stage to its end.

    Attributes:
        status: HTTP status that tells whose fault it is: 400 the request's, 503 the server's for now.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class StageOutput:
    """What a stage gave since its last output.

    Attributes:
        ids: new ids of stream 0.
        frames: new frames, [len(ids)][num_stream] ids; empty in a text stage.
        finish_reason: SGLang's, once the stage has ended: {"type": "stop" | "length" | "abort", ...}.
        cached_tokens: positions of the prompt that the radix cache held.
    """

    ids: list[int]
    frames: list[list[int]]
    finish_reason: dict[str, Any] | None
    cached_tokens: int


class Engine:
    """SGLang's TokenizerManager as the program needs it."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    @property
    def capacity(self) -> int:
        """Positions that one request may take, prompt and answer together."""
        return int(self._manager.max_req_input_len)

    async def run(
        self,
        stage_id: str,
        prompt: Prompt,
        sampling_params: dict[str, Any],
    ) -> AsyncGenerator[StageOutput]:
        """Run one stage. Leaving the iteration early, by an exception or cancellation too, aborts it in SGLang.

        Raises:
            StageRefused: if SGLang refuses or aborts the stage.
        """
        request = GenerateReqInput(
            rid=stage_id,
            input_ids=prompt.ids,
            audio_data=prompt.audio or None,
            sampling_params=sampling_params,
            stream=True,
        )
        outputs = self._manager.generate_request(request)
        seen = 0
        try:
            async for output in outputs:
                meta = output["meta_info"]
                reason = meta.get("finish_reason")
                if reason is not None and reason["type"] == "abort":
                    status = int(reason.get("status_code") or 503)
                    raise StageRefused(400 if status == 400 else 503, str(reason.get("message", "aborted")))
                ids = output["output_ids"][seen:]
                frames = meta.get(FRAMES, [])[seen:]
                seen += len(ids)
                yield StageOutput(ids, frames[: len(ids)], reason, meta["cached_tokens"])
        except ValueError as error:
            raise StageRefused(400, str(error)) from error
        except HTTPException as error:
            raise StageRefused(error.status_code, str(error.detail)) from error
        finally:
            await outputs.aclose()
