#!/usr/bin/env bash
# The common part of launch/serve_cfg.sh and launch/serve_cfg_1.sh, which add their own defaults and the user's arguments.
# The model is --model-path DIR, else MODEL, else speechlm-qwen3-8b/ in the current directory or the repository root.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3
model=${MODEL:-speechlm-qwen3-8b}
[ -n "${MODEL:-}" ] || [ -e "$model" ] || [ ! -e "$root/$model" ] || model=$root/$model
exec "$python" -m sglang_speechlm.launch \
    --model-path "$model" --served-model-name speechlm-qwen3-8b \
    --max-model-len 16384 --gpu-memory-utilization 0.90 --enable-prefix-caching "$@"
