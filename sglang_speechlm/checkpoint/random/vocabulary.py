"""A small byte-level BPE in the form of Qwen3's tokenizer files, with raw ids."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_NOT_SPECIAL = ("<think>", "</think>")

_TEXT = """
A speech language model reads, listens, writes and speaks. It takes a question as text or as sound, and it answers
with words, or with words and then with a voice that says them. The sound of its answer is a row of frames, fifty
to the second, and each frame is eight small numbers, one for each book of codes. The first book holds the coarse
shape of the sound and each of the others adds a finer shade of it. The model writes all eight at once, but every
book runs one step behind the one before it, so that a finer shade can follow the coarse shape that it belongs to.
What is the weather like today? It is raining in the north, and the wind will turn to the west in the evening.
Please tell me a short story about a cat, a river and an old bridge. Once upon a time there was a grey cat who
lived under the bridge, where the river was slow and the fish were many. Every morning the baker's daughter came
by with bread, and every morning the cat told her what the river had said in the night. Nobody believed a word.
How many planets go around the sun? There are eight of them: Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus
and Neptune. Can you hear the music in this recording? Yes, I can hear a piano and a violin, and somebody speaks
in the background; the voice is calm, low and friendly. Say the following sentence slowly and clearly: one, two,
three, four, five, six, seven, eight, nine, ten. Describe the sound: a door closes, steps go down the stairs, and
then there is silence. Thank you very much! You are welcome. Is there anything else that I should listen to?
Grüße aus Köln, où es-tu, mañana, dzień dobry, привет, 你好, こんにちは, 안녕하세요.
"""


def write_raw_tokenizer(directory: Path, size: int) -> None:
    """Train on a fixed text and write ``tokenizer.json`` and ``tokenizer_config.json``.

    As in Qwen3, raw id 0 is "!", the added tokens come last, and fewer than ``size`` ids are used.

    Raises:
        ValueError: if ``size`` is too small for the bytes and the added tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    added = [AddedToken(name, special=True, normalized=False) for name in _SPECIAL]
    added += [AddedToken(name, special=False, normalized=False) for name in _NOT_SPECIAL]
    if size < len(alphabet) + len(added):
        raise ValueError(f"text_vocab_size must be at least {len(alphabet) + len(added)}; got {size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=size - len(added), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([_TEXT], trainer)
    tokenizer.add_tokens(added)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
