"""The launcher's options for several workers."""

import pytest

from sglang_speechlm.options.fleet import is_fleet, read


@pytest.mark.parametrize(
    ("arguments", "fleet"),
    [
        ([], False),
        (["--dp", "1"], True),
        (["--dp", "2"], True),
        (["--dp-size", "2"], False),
        (["--worker-urls", "http://a:1"], True),
        (["--dp=1"], True),
    ],
)
def test_more_than_one_server_is_a_fleet(arguments: list[str], fleet: bool) -> None:
    assert is_fleet(["--model-path", "m", *arguments]) == fleet


def test_options_are_divided_between_workers_and_front() -> None:
    shared = [
        "--host",
        "0.0.0.0",
        "--port",
        "9000",
        "--api-key",
        "k",
        "--tensor-parallel-size",
        "2",
        "--base-gpu-id",
        "4",
    ]
    options = read(["--model-path", "m", "--dp", "2", *shared, "--drain-timeout", "5"])
    worker_arguments = ("--api-key", "k", "--tensor-parallel-size", "2", "--drain-timeout", "5")
    assert options.worker_arguments == worker_arguments
    assert (options.host, options.port, options.keys.user) == ("0.0.0.0", 9000, "k")
    assert (options.first_gpu, options.gpus_per_worker, options.drain_seconds) == (4, 2, 5)


def test_urls_alone_start_no_worker() -> None:
    options = read(["--worker-urls", "http://a:1/", "http://b:2", "http://a:1"])
    assert (options.workers, options.urls) == (0, ("http://a:1", "http://b:2"))


def test_urls_in_addition_to_a_model_join_its_workers() -> None:
    assert read(["--model-path", "m", "--worker-urls", "http://a:1"]).workers == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dp", "2"], "--model-path"),
        (["--model-path", "m", "--dp", "2", "--nnodes", "2"], "--nnodes"),
        (["--model-path", "m", "--dp", "2", "--dist-init-addr=h:1"], "--dist-init-addr"),
        (["--worker-urls", "http://a:1", "--ssl-keyfile", "k"], "--ssl-certfile"),
        (["--worker-urls", "http://a:1", "--api-kye", "k"], "--api-kye: "),
        (["--worker-urls", "http://a:1", "--host", ""], "--host: must not be empty"),
        (["--worker-urls", "http://a:1", "--ssl-keyfile=", "--ssl-certfile="], "--ssl-certfile: must not be empty"),
        (["--worker-urls", "http://a:1", "--port=0"], "--port: must be from 1 to 65535; got 0"),
        (["--worker-urls", "http://a:1", "--port", "70000"], "--port: must be from 1 to 65535; got 70000"),
        (["--worker-urls", "http://a:1", "--max-running-requests", "4"], "--max-running-requests: "),
    ],
)
def test_contradictions_are_refused_by_name(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--request-timeout-secs", "nan"],
        ["--request-timeout-secs", "-1"],
        ["--drain-timeout", "-1"],
        ["--max-body-mib", "0"],
        ["--log-level", "loud"],
    ],
)
def test_a_front_refuses_the_values_that_a_server_refuses(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read(["--worker-urls", "http://a:1", *arguments])
    assert f"argument {arguments[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    [
        "a:1",
        "ftp://a:1",
        "http://",
        "http://a:1/v1",
        "http://a:1?x=1",
        "http://u@a:1",
        "http://a:x",
        "http://a\\b:1",
        "http://a b:1",
        "http://a%2fb:1",
        "http://a:0",
    ],
)
def test_an_invalid_worker_url_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(["--worker-urls", url])
    assert "http(s)://HOST:PORT" in capsys.readouterr().err
