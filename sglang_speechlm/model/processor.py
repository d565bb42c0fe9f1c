"""SGLang's multimodal processor for SpeechLM: passes on the audio of a laid-out prompt."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from sglang.srt.managers.schedule_batch import Modality, MultimodalDataItem, MultimodalProcessorOutput
from sglang.srt.multimodal.processors.base_processor import BaseMultimodalProcessor
from typing_extensions import override

from sglang_speechlm.model.speechlm import SpeechLMForConditionalGeneration
from sglang_speechlm.prompt.layout import PlacedAudio


class PlacedAudioProcessor(BaseMultimodalProcessor):
    """Accepts audio that is already features at known positions, and so needs none of SGLang's loading pools."""

    models: ClassVar[list[type]] = [SpeechLMForConditionalGeneration]
    prefer_tokenized_input = True

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        pass

    @override
    def clear_preprocess_cache(self) -> None:
        """Do nothing: there is no such cache."""

    @override
    async def process_mm_data_async(
        self, image_data: Any, audio_data: list[Any], input_text: list[int], request_obj: Any, **_kwargs: Any
    ) -> MultimodalProcessorOutput:
        """Wrap placed audio in SGLang's items, each with its hash.

        Raises:
            ValueError: for images, and for audio that is not part of a laid-out prompt.
        """
        if image_data:
            raise ValueError("image_data: this model does not accept images")
        if not all(isinstance(placed, PlacedAudio) for placed in audio_data):
            raise ValueError("audio_data: send audio to /v1/chat/completions, as an input_audio content part")
        return MultimodalProcessorOutput(mm_items=[_item(placed) for placed in audio_data], input_ids=input_text)


def _item(placed: PlacedAudio) -> MultimodalDataItem:
    item = MultimodalDataItem(
        modality=Modality.AUDIO, feature=torch.from_numpy(placed.feature), offsets=[(placed.first, placed.last)]
    )
    item.set_hash(placed.hash)
    return item
