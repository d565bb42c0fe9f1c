"""The tensors that a checkpoint of a given config must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sglang_speechlm.config import SpeechLMConfig

AUDIO_TOWER_PREFIX = "multimodal_io_dict.continuous_audio.model.audio_tower."
CODEC_PREFIX = "multimodal_io_dict.discrete_audio.codec_model."

LOSS_WEIGHTS = "vocab_weight"
"""The weight of each id in the training loss: released with the model's tensors, but not part of the model."""

_NAMES_IN_A_MESSAGE = 8


def expected_tensors(config: SpeechLMConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors but the codec's, by ESPnet's names, in the order of the modules."""
    content = config.to_json_string(use_diff=False)
    if content not in _known:
        _known[content] = _shapes_in_modules(config)
    return dict(_known[content])


_known: dict[str, dict[str, tuple[int, ...]]] = {}
"""Shapes by the content of a config, because it takes seconds to make the modules of a large one."""


def _shapes_in_modules(config: SpeechLMConfig) -> dict[str, tuple[int, ...]]:
    # These take seconds to import: an option that is refused, or help, need not wait for them.
    from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM
    from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

    with _shapes_alone():
        backbone = Qwen3ForCausalLM(config.text_config)
        audio_tower = Qwen3OmniMoeAudioEncoder(config.audio_config)
    shapes = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    if config.text_config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    hidden_size = config.text_config.hidden_size
    shapes["stream_emb.weight"] = (config.num_stream, hidden_size)
    shapes["adaptor.continuous_audio.weight"] = (hidden_size, config.adaptor_input_dim)
    shapes["adaptor.continuous_audio.bias"] = (hidden_size,)
    for name, tensor in audio_tower.state_dict().items():
        shapes[AUDIO_TOWER_PREFIX + name] = tuple(tensor.shape)
    return shapes


@contextmanager
def _shapes_alone() -> Iterator[None]:
    """Create the parameters of modules in this context without values.

    Not ``torch.device("meta")``, on which other computations of a module, such as of its rotations, import torch's
    compiler.
    """
    from transformers.initialization import no_init_weights

    def without_values(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> Any:
        return None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False)

    hook = register_module_parameter_registration_hook(without_values)
    try:
        with no_init_weights():
            yield
    finally:
        hook.remove()


def check_tensors(found: Mapping[str, Sequence[int]], config: SpeechLMConfig) -> None:
    """Refuse a checkpoint that does not match its config exactly.

    Args:
        found: shapes of the checkpoint's tensors, by name; ignores the codec's, the loss weights, and a stored head
            that is tied to the embeddings.
        config: the checkpoint's config.

    Raises:
        ValueError: if tensors are missing, unexpected or misshapen; the message has the first few of each and counts.
    """
    expected = expected_tensors(config)
    own = {name: tuple(shape) for name, shape in found.items() if not name.startswith(CODEC_PREFIX)}
    own.pop(LOSS_WEIGHTS, None)
    if config.text_config.tie_word_embeddings:
        own.pop("lm_head.weight", None)
    complaints = [
        _listed("missing", sorted(expected.keys() - own.keys())),
        _listed("unexpected", sorted(own.keys() - expected.keys())),
        _listed(
            "misshapen",
            [
                f"{name} is {list(own[name])}, expected {list(shape)}"
                for name, shape in expected.items()
                if name in own and own[name] != shape
            ],
        ),
    ]
    if any(complaints):
        raise ValueError("the checkpoint's tensors do not match its config: " + "; ".join(filter(None, complaints)))


def _listed(kind: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    rest = len(names) - _NAMES_IN_A_MESSAGE
    more = f" and {rest} more" if rest > 0 else ""
    return f"{len(names)} {kind} ({', '.join(names[:_NAMES_IN_A_MESSAGE])}{more})"
