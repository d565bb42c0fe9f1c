# A worker on NVIDIA GPUs. From the repository's root:
#   docker build -f launch/containers/cuda.Dockerfile -t speechlm:cuda .
#   docker run --rm --gpus all --shm-size 8g -p 9000:9000 -v "$PWD/speechlm-qwen3-8b:/model:ro" speechlm:cuda
# It includes the toolkit, because some kernels are compiled on first use; it is a single stage, because all of it is
# needed at run time.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-venv python3.12-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home speechlm

WORKDIR /opt/speechlm
COPY launch/setup.py launch/setup.py
COPY launch/requirements launch/requirements
COPY pyproject.toml README.md LICENSE ./
COPY sglang_speechlm sglang_speechlm
# The locked packages that `make setup` installs, without those for tests only. The copied files may be private to their
# owner (umask 077).
RUN PROFILE=cuda PIP_NO_CACHE_DIR=1 python3.12 launch/setup.py \
    && .venv/bin/python -m pip uninstall --yes --quiet -r launch/requirements/dev.txt \
    && chmod -R go+rX .

USER 10001:10001
WORKDIR /home/speechlm
ENV PYTHONUNBUFFERED=1
EXPOSE 9000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30m --retries=3 \
    CMD ["/opt/speechlm/.venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9000/health', timeout=5)"]
ENTRYPOINT ["/opt/speechlm/.venv/bin/python", "-m", "sglang_speechlm.launch", "--host", "0.0.0.0", "--port", "9000"]
CMD ["--model-path", "/model", "--enable-metrics", "--log-format", "json"]
