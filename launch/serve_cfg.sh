#!/usr/bin/env bash
# Serve SpeechLM on four GPUs. Additional arguments override these defaults, under the guide's names or SGLang's:
#   bash launch/serve_cfg.sh --port 8080 --max-model-len 8192
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/serve.sh" \
    --port 9001 --tensor-parallel-size 4 --max-num-seqs 2048 --overridden-by "$@"
