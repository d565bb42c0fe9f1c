#!/usr/bin/env bash
# Serve SpeechLM on one GPU. Additional arguments override these defaults, under the guide's names or SGLang's:
#   bash launch/serve_cfg_1.sh --port 8080 --max-model-len 8192
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/serve.sh" \
    --port 9000 --tensor-parallel-size 1 --max-num-seqs 1024 --overridden-by "$@"
