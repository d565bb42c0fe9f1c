#!/usr/bin/env bash
# Serve SpeechLM on one GPU. Arguments are passed on and win over these defaults, under the guide's names or SGLang's:
#   bash launch/serve_cfg_1.sh --port 8080 --max-model-len 8192
# The model is --model-path DIR, else MODEL, else speechlm-qwen3-8b/ here or in the folder above this one.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
model=${MODEL:-speechlm-qwen3-8b}
[ -n "${MODEL:-}" ] || [ -e "$model" ] || [ ! -e "$root/$model" ] || model=$root/$model
exec "$python" -m sglang_speechlm.launch \
    --model-path "$model" --served-model-name speechlm-qwen3-8b \
    --port 9000 --tensor-parallel-size 1 --max-num-seqs 1024 \
    --max-model-len 16384 --gpu-memory-utilization 0.90 --enable-prefix-caching \
    --overridden-by "$@"
