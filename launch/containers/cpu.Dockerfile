# A worker, or the router's front, without a GPU. From the repository's root:
#   docker build -f launch/containers/cpu.Dockerfile -t speechlm:cpu .
#   docker run --rm -p 9000:9000 -v "$PWD/speechlm-qwen3-8b:/model:ro" speechlm:cpu
FROM python:3.12-slim-bookworm AS built

WORKDIR /opt/speechlm
COPY launch/setup.py launch/setup.py
COPY launch/requirements launch/requirements
COPY pyproject.toml README.md LICENSE ./
COPY sglang_speechlm sglang_speechlm
# The locked packages that `make setup` installs, without those for tests only. The copied files may be private to their
# owner (umask 077).
RUN PROFILE=cpu python3 launch/setup.py \
    && .venv/bin/python -m pip uninstall --yes --quiet -r launch/requirements/dev.txt \
    && chmod -R go+rX .

FROM python:3.12-slim-bookworm

RUN useradd --uid 10001 --user-group --create-home speechlm
COPY --from=built /opt/speechlm /opt/speechlm
USER 10001:10001
WORKDIR /home/speechlm
ENV PYTHONUNBUFFERED=1
EXPOSE 9000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=30m --retries=3 \
    CMD ["/opt/speechlm/.venv/bin/python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9000/health', timeout=5)"]
ENTRYPOINT ["/opt/speechlm/.venv/bin/python", "-m", "sglang_speechlm.launch", "--host", "0.0.0.0", "--port", "9000"]
CMD ["--model-path", "/model", "--device", "cpu", "--enable-metrics", "--log-format", "json"]
