"""--quantization fp8 with its kernels replaced on a CPU: what is quantized, what is not, and the answers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from played_fp8 import written_weights
from reference import Reference
from safetensors.torch import load_file, save_file
from server import BY_NAME, Client, Server, message_of, regrets, serving
from shared import POOL

from sglang_speechlm.checkpoint import CODEC_PREFIX, CheckpointSpec, build_checkpoint
from sglang_speechlm.checkpoint.memory import is_quantized, weight_bytes
from sglang_speechlm.checkpoint.tensors import AUDIO_TOWER_PREFIX
from sglang_speechlm.model.speechlm import codec_rows

SPEC = CheckpointSpec(seed=0, dtype="bfloat16", logit_scale=4.0)
CONFIG = SPEC.config()
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
MATRICES = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
LAYERS = range(CONFIG.text_config.num_hidden_layers)
QUANTIZED = {f"model.layers.{layer}.{matrix}.weight" for layer in LAYERS for matrix in MATRICES}
STEP, SMALLEST = 2.0**-4, 2.0**-10 / 448
"""Maximum rounding errors of fp8, relative to a value and to the largest value of its row."""
REGRET = 0.3
"""Maximum distance of a chosen id's logit from the best one of the reference, which computes in float32."""

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("fp8") / "small", spec=SPEC)


@pytest.fixture(scope="module")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("fp8") / "log"
    options = (*POOL, "--quantization", "fp8")
    with serving(checkpoint, log, *options, launcher="tests.support.played_fp8") as started:
        yield started


@pytest.fixture(scope="module")
def stored(checkpoint: Path) -> Tensors:
    """Return the checkpoint's tensors without the codec's."""
    (file,) = checkpoint.glob("*.safetensors")
    return {name: tensor for name, tensor in load_file(file).items() if not name.startswith(CODEC_PREFIX)}


@pytest.fixture(scope="module")
def served(server: Server, checkpoint: Path) -> Tensors:
    """Return the weights of the running server."""
    assert server.url
    return load_file(written_weights(checkpoint))


def dequantized(served: Tensors, stored: Tensors) -> Tensors:
    """Return the quantized matrices in float32 by their names in the checkpoint; the server fuses some of them."""
    matrices: Tensors = {}
    for name in QUANTIZED:
        products = (served[name].float() * served[name.replace("weight", "weight_scale")]).T
        place, fused = name.removesuffix(".weight").rsplit(".", 1)
        parts = [f"{place}.{part}.weight" for part in FUSED.get(fused, (fused,))]
        sizes = [len(stored[part]) for part in parts]
        matrices |= zip(parts, (part.contiguous() for part in products.split(sizes)), strict=True)
    return matrices


def test_only_the_matrices_of_the_layers_are_quantized(served: Tensors) -> None:
    assert {name for name, tensor in served.items() if tensor.dtype == torch.float8_e4m3fn} == QUANTIZED


def test_everything_else_equals_the_checkpoint_bit_by_bit(served: Tensors, stored: Tensors) -> None:
    others = {name: tensor for name, tensor in stored.items() if not is_quantized(name)}
    assert {"lm_head.weight", "model.embed_tokens.weight", "stream_emb.weight"} <= others.keys()
    renamed = {AUDIO_TOWER_PREFIX: "audio_encoder.audio_tower.", "adaptor.continuous_audio.": "adaptor."}
    for name, tensor in others.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        assert served[name].dtype == torch.bfloat16, name
        assert served[name][: len(tensor)].equal(tensor), name  # the vocabulary is padded
    assert served["codec_head.weight"].equal(codec_rows(stored["lm_head.weight"], 0, CONFIG.ids))


def test_a_quantized_matrix_equals_the_checkpoint_except_for_rounding(served: Tensors, stored: Tensors) -> None:
    matrices = dequantized(served, stored)
    assert matrices.keys() == {name for name in stored if is_quantized(name)}
    for name, matrix in matrices.items():
        exact = stored[name].float()
        smallest = exact.abs().amax(dim=1, keepdim=True) * SMALLEST
        assert ((matrix - exact).abs() <= STEP * exact.abs() + smallest).all(), name


def test_the_memory_plan_counts_the_served_bytes(served: Tensors) -> None:
    vocabulary = ("model.embed_tokens.weight", "lm_head.weight")
    padding = sum(served[name][CONFIG.vocab_size :].nbytes for name in vocabulary)
    unplanned = ("codec_head.", ".k_scale", ".v_scale")
    total = sum(tensor.nbytes for name, tensor in served.items() if not any(part in name for part in unplanned))
    assert total - padding == weight_bytes(CONFIG, fp8=True)


def test_every_id_is_the_references_best_except_for_rounding(
    client: Client, served: Tensors, stored: Tensors, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "rounded")
    (file,) = (tmp_path / "rounded").glob("*.safetensors")
    save_file({**load_file(file), **dequantized(served, stored)}, file, metadata={"format": "pt"})
    reference = Reference.load(tmp_path / "rounded")
    cases = [BY_NAME[name] for name in ("text", "spoken", "audio question", "guided", "given text")]
    for case, answer in zip(cases, client.chat_at_once([case.body() for case in cases]), strict=True):
        ids = message_of(answer)["speechlm"]["text_ids"]
        assert max(regrets(client, reference, case, ids)) <= REGRET, case
