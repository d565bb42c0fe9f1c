#!/usr/bin/env bash
# What launch/serve_cfg.sh and launch/serve_cfg_1.sh have in common; each adds its own defaults, and then its arguments.
# The model is --model-path DIR, else MODEL, else speechlm-qwen3-8b/ here or in the folder above this one.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
model=${MODEL:-speechlm-qwen3-8b}
[ -n "${MODEL:-}" ] || [ -e "$model" ] || [ ! -e "$root/$model" ] || model=$root/$model
exec "$python" -m sglang_speechlm.launch \
    --model-path "$model" --served-model-name speechlm-qwen3-8b \
    --max-model-len 16384 --gpu-memory-utilization 0.90 --enable-prefix-caching "$@"
