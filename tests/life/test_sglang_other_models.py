"""Stock SGLang serves other models unchanged if this package is installed."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import sglang_speechlm  # noqa: F401  (first: transformers imports torchvision, which needs its operators)

PROMPTS = [[5, 6, 7, 8, 9], [5, 6, 7, 8, 9, 10, 11], [400, 3]]
LENGTH = 12
SCRIPT = """
import sglang_speechlm  # what stock SGLang cannot start without next to a CPU build of torch
import json, multiprocessing, sys

if __name__ == "__main__":
    from sglang import Engine

    # Engine chooses "spawn"; forked parts have the imports of this process, most of the time of a start.
    multiprocessing.set_start_method("fork")
    multiprocessing.set_start_method = lambda *_args, **_options: None

    path, prompts, length = json.loads(sys.argv[1])
    engine = Engine(model_path=path, skip_tokenizer_init=True, max_total_tokens=2048, disable_cuda_graph=True)
    greedy = {"max_new_tokens": length, "temperature": 0, "ignore_eos": True}
    # Fields that mean something to SpeechLM alone.
    odd = {**greedy, "custom_params": {"audio": True, "cfg": 3.0, "min_frames": "none"}}
    answers = [engine.generate(input_ids=prompts, sampling_params=params) for params in (greedy, odd)]
    engine.shutdown()
    print("ids:", json.dumps([[answer["output_ids"] for answer in several] for several in answers]))
"""


def other_models() -> str:
    """Return the names of all SGLang models except Qwen3, for the option that skips their slow imports."""
    spec = find_spec("sglang.srt.models")
    assert spec is not None
    return ",".join(module.name for module in iter_modules(spec.submodule_search_locations) if module.name != "qwen3")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Qwen3ForCausalLM]:
    """Return the directory of a small random Qwen3 whose answers do not loop, and the model."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=512, tie_word_embeddings=False, dtype="float32",
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    folder = tmp_path_factory.mktemp("qwen3")
    model.save_pretrained(folder)
    return folder, model


def test_a_plain_qwen3_generates_the_same_ids_as_transformers(
    qwen: tuple[Path, Qwen3ForCausalLM], tmp_path: Path
) -> None:
    folder, model = qwen
    script = tmp_path / "stock.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, script, json.dumps([str(folder), PROMPTS, LENGTH])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "SGLANG_DISABLED_MODEL_ARCHS": other_models()},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("ids:")]
    assert lines, result.stderr[-3000:]
    expected = []
    for prompt in PROMPTS:
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=LENGTH, do_sample=False, eos_token_id=None)
        expected.append(ids[0, len(prompt) :].tolist())
    assert json.loads(lines[0].removeprefix("ids:")) == [expected, expected]
