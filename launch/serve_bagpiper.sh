#!/usr/bin/env bash
# Serve a released Bagpiper where ESPnet's clients expect it: port 9811, model name bagpiper. MODEL is a path or a hub tag
# (default: the release for speech from descriptions). Additional arguments override these defaults:
#   MODEL=espnet/bagpiper-sft bash launch/serve_bagpiper.sh --preset sentence.json --port 8080
MODEL=${MODEL:-espnet/bagpiper-tts-sft} exec bash "$(dirname -- "${BASH_SOURCE[0]}")/serve.sh" \
    --port 9811 --tensor-parallel-size 1 --max-num-seqs 1024 --served-model-name bagpiper --overridden-by "$@"
