"""The id space of a checkpoint: control ids, text ids, and one interval of codec ids per stream."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ids:
    """The ranges of a SpeechLM vocabulary (ESPnet, class ParallelLLM).

    Text ids are the raw tokenizer ids plus ``text_begin``. Stream ``s`` owns
    ``[codec_begin + s * codec_layer_size, codec_begin + (s + 1) * codec_layer_size)``; the first id of
    each interval is that stream's codec pad and the rest are its codes.

    Raises:
        ValueError: if the ranges overlap or leave the vocabulary.
    """

    pad: int
    bos: int
    eos: int
    eot: int
    system: int
    user: int
    assistant: int
    text: int
    audio: int
    text_begin: int
    text_end: int
    codec_begin: int
    codec_layer_size: int
    num_stream: int
    vocab_size: int

    def __post_init__(self) -> None:
        controls = (
            self.pad, self.bos, self.eos, self.eot, self.system, self.user, self.assistant, self.text, self.audio,
        )  # fmt: skip
        if len(set(controls)) != len(controls):
            raise ValueError(f"control ids must differ from each other: {controls}")
        if not all(0 <= control < self.text_begin for control in controls):
            raise ValueError(f"control ids {controls} must lie below text_token_offset {self.text_begin}")
        if self.pad != 0:
            raise ValueError(f"pad must be 0, because a 0 in streams 1.. means an empty cell; got {self.pad}")
        if not self.text_begin < self.text_end <= self.codec_begin:
            raise ValueError(
                f"text ids [{self.text_begin}, {self.text_end}) must end at or below codec_base_offset "
                f"{self.codec_begin}"
            )
        if self.num_stream < 1 or self.codec_layer_size < 2:
            raise ValueError("num_stream must be at least 1 and codec_layer_size at least 2")
        if self.codec_end > self.vocab_size:
            raise ValueError(f"codec ids end at {self.codec_end}, beyond vocab_size {self.vocab_size}")

    @property
    def codec_end(self) -> int:
        """One past the last codec id."""
        return self.codec_begin + self.num_stream * self.codec_layer_size

    @property
    def codebook_size(self) -> int:
        """Number of codes per stream, without the codec pad."""
        return self.codec_layer_size - 1

    @property
    def roles(self) -> dict[str, int]:
        """The id that opens a message, by role name."""
        return {"system": self.system, "user": self.user, "assistant": self.assistant}

    def codec_pad(self, stream: int) -> int:
        """Return the id of an empty cell in ``stream``."""
        return self.codec_begin + stream * self.codec_layer_size
