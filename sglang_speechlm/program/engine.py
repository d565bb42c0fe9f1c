"""One stage of the program as an ordinary SGLang request, run inside the serving process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException

from sglang_speechlm import logs, metrics
from sglang_speechlm.prompt.layout import Prompt
from sglang_speechlm.sglang_hooks.requests import GenerateReqInput
from sglang_speechlm.sglang_hooks.types import TokenizerManager
from sglang_speechlm.stage import FRAMES, PAIR_MARGIN, UNCONDITIONAL_CACHED, frames_of


class StageRefused(Exception):
    """SGLang did not run a stage to its end.

    Attributes:
        status: HTTP status: 400 if the request is at fault, 503 if the server cannot run it now.
        begun: whether a part of the answer had been generated, which a retry would generate again.
        aborted: whether somebody aborted it.
    """

    def __init__(self, status: int, message: str, *, begun: bool = False, aborted: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.begun = begun
        self.aborted = aborted

    @property
    def is_temporary(self) -> bool:
        """Whether a retry may succeed, repeats no work, and is still wanted."""
        return self.status != 400 and not self.begun and not self.aborted


@dataclass(frozen=True)
class StageOutput:
    """New results of a stage since its last output.

    Attributes:
        ids: new ids of stream 0.
        frames: new frames, int32 [len(ids), num_stream]; empty in a text stage.
        finish_reason: SGLang's, once the stage has ended: {"type": "stop" | "length" | "abort", ...}.
        cached_tokens: positions of the prompt that the radix cache held.
        unconditional_cached_tokens: the same for the unconditional branch; None without guidance.
        dp_rank: rank of SGLang's own data parallelism that holds the cached prompt; None without it.
    """

    ids: list[int]
    frames: npt.NDArray[np.int32]
    finish_reason: dict[str, Any] | None
    cached_tokens: int
    unconditional_cached_tokens: int | None = None
    dp_rank: int | None = None


class Engine:
    """Runs stages on SGLang's TokenizerManager.

    Attributes:
        aborts: how often everything was aborted.
    """

    aborts = 0

    def __init__(self, manager: TokenizerManager, memory_positions: int, num_stream: int) -> None:
        """Take SGLang's TokenizerManager, the positions that its memory pool holds, and the ids of a frame."""
        self._manager = manager
        self._memory_positions = memory_positions
        self._num_stream = num_stream

    def capacity(self, *, guided: bool = False) -> int:
        """Return the positions available to one request, prompt plus answer; a guided request takes each twice."""
        alone = int(self._manager.max_req_input_len)
        return min(alone, (self._memory_positions - PAIR_MARGIN) // 2) if guided else alone

    @property
    def can_guide(self) -> bool:
        """Whether a batch has the two rows that guidance needs."""
        return self._manager.server_args.max_running_requests != 1

    def abort(self, request_id: str) -> None:
        """Abort an SGLang request in any state; an unknown id has no effect."""
        self._manager.abort_request(request_id)

    def abort_all(self) -> None:
        """Abort all running and waiting requests."""
        self.aborts += 1
        self._manager.abort_request(abort_all=True)

    async def outputs(self, request: GenerateReqInput, *, begun: bool = False) -> AsyncGenerator[Any]:
        """Yield SGLang's outputs for a request as they arrive.

        Leaving the iteration early, including by an exception or a cancellation, aborts the request.

        Raises:
            StageRefused: if SGLang refuses it. ``begun`` states whether an earlier stage has generated something.
        """
        outputs = self._manager.generate_request(request)
        try:
            async for output in outputs:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    # Before Python 3.12, asyncio.wait_for, with which SGLang waits, may swallow a cancellation that
                    # comes at the same time as what it waits for (https://github.com/python/cpython/issues/86296).
                    raise asyncio.CancelledError
                yield output
        except ValueError as error:
            raise StageRefused(400, str(error)) from error
        except HTTPException as error:
            raise StageRefused(error.status_code, str(error.detail), begun=begun) from error
        finally:
            await outputs.aclose()

    async def run(
        self,
        stage_id: str,
        prompt: Prompt,
        sampling_params: dict[str, Any],
        *,
        begun: bool = False,
        dp_rank: int | None = None,
    ) -> AsyncGenerator[StageOutput]:
        """Run one stage. Leaving the iteration early, including by an exception or a cancellation, aborts it in SGLang.

        ``begun`` states that an earlier stage of the answer has generated something, ``dp_rank`` on which rank.

        Raises:
            StageRefused: if SGLang refuses or aborts the stage.
        """
        request = GenerateReqInput(
            rid=stage_id,
            input_ids=prompt.ids,
            audio_data=prompt.audio or None,
            sampling_params=sampling_params,
            stream=True,
            routed_dp_rank=dp_rank,
            external_trace_header=entry.trace if (entry := logs.current()) is not None else None,
        )
        seen = seen_chunks = 0
        metrics.STAGES_RUNNING.add(1)
        try:
            async with aclosing(self.outputs(request, begun=begun)) as outputs:
                async for output in outputs:
                    meta = output["meta_info"]
                    reason = meta.get("finish_reason")
                    if reason is not None and reason["type"] == "abort":
                        # SGLang's own refusals have a status.
                        status = reason.get("status_code")
                        message = str(reason.get("message", "aborted"))
                        begun = begun or seen > 0
                        raise StageRefused(400 if status == 400 else 503, message, begun=begun, aborted=status is None)
                    ids = output["output_ids"][seen:]
                    chunks = meta.get(FRAMES, [])[seen_chunks:]
                    seen += len(ids)
                    seen_chunks += len(chunks)
                    unconditional = meta.get(UNCONDITIONAL_CACHED)
                    yield StageOutput(
                        ids,
                        frames_of(chunks, self._num_stream),
                        reason,
                        meta["cached_tokens"],
                        unconditional[-1] if unconditional else None,
                        meta.get("dp_rank"),
                    )
        finally:
            metrics.STAGES_RUNNING.add(-1)
