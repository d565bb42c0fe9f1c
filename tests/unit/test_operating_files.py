"""Container files and the Kubernetes manifest pass their linters and agree with each other and with the product."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from server import Server

from launch import setup
from sglang_speechlm.options.fleet import read

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
DOCKERFILES = sorted((LAUNCH / "containers").glob("*.Dockerfile"))
MANIFEST = LAUNCH / "kubernetes" / "speechlm.yaml"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text()))
PODS = {item["metadata"]["name"]: item["spec"] for item in OBJECTS if "template" in item["spec"]}
YAML_STYLE = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
CLEARING_SECONDS = 20
"""Maximum time from the end of --drain-timeout to the end of the server."""


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Pairs of instruction and arguments, with continued lines joined and without comments."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    words = (line.partition(" ") for line in text.splitlines() if line)
    return [(name, arguments.strip()) for name, _, arguments in words]


def last(dockerfile: Path, name: str) -> str:
    return [arguments for instruction, arguments in instructions(dockerfile) if instruction == name][-1]


def container(name: str) -> dict[str, Any]:
    (found,) = PODS[name]["template"]["spec"]["containers"]
    return dict(found)


def option(name: str, of: str) -> str:
    (value,) = (argument.partition("=")[2] for argument in container(of)["args"] if argument.startswith(f"{name}="))
    return value


# Containers


def test_there_is_a_dockerfile_for_each_profile() -> None:
    assert {file.stem for file in DOCKERFILES} == set(setup.PROFILES)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_hadolint_has_no_complaint(dockerfile: Path) -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), "--failure-threshold", "style", str(dockerfile)]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_a_container_installs_its_locked_profile(dockerfile: Path) -> None:
    runs = [arguments for name, arguments in instructions(dockerfile) if name == "RUN"]
    assert any(f"PROFILE={dockerfile.stem}" in run and "launch/setup.py" in run for run in runs)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_copied_files_exist_and_are_not_ignored(dockerfile: Path) -> None:
    not_ignored = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [arguments.split()[:-1] for name, arguments in instructions(dockerfile) if name == "COPY"]
    sources = {source for sources in copied for source in sources if not source.startswith(("--", "/"))}
    assert all((ROOT / source).exists() for source in sources)
    assert sources == not_ignored


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_a_container_runs_the_launcher_itself_as_an_ordinary_user(dockerfile: Path) -> None:
    # In exec form there is no shell between the signals and the launcher.
    command = json.loads(last(dockerfile, "ENTRYPOINT")) + json.loads(last(dockerfile, "CMD"))
    assert command[1:3] == ["-m", "sglang_speechlm.launch"]
    assert last(dockerfile, "STOPSIGNAL") == "SIGTERM"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last(dockerfile, "USER"))
    assert command[command.index("--port") + 1] == last(dockerfile, "EXPOSE")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_a_health_check_passes_only_while_the_server_serves(dockerfile: Path, server: Server) -> None:
    command = json.loads(last(dockerfile, "HEALTHCHECK").partition("CMD")[2])
    port = last(dockerfile, "EXPOSE")
    program = command[-1].replace(f":{port}/", f":{server.url.rpartition(':')[2]}/")
    assert program != command[-1]
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", command[-1]], stderr=subprocess.DEVNULL, check=False).returncode == 1


# YAML


@pytest.mark.parametrize("file", sorted(LAUNCH.rglob("*.y*ml")), ids=lambda file: file.name)
def test_yamllint_has_no_complaint(file: Path) -> None:
    subprocess.run([sys.executable, "-m", "yamllint", "--strict", "-d", YAML_STYLE, str(file)], check=True)


@pytest.mark.parametrize("item", OBJECTS, ids=lambda item: f"{item['kind']} {item['metadata']['name']}")
def test_kubernetes_accepts_all_objects(item: dict[str, Any]) -> None:
    kubernetes_validate.validate(item, "1.32", strict=True)


# The manifest


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_enough_time_to_finish_its_answers(name: str) -> None:
    pre_stop_seconds = float(container(name)["lifecycle"]["preStop"]["exec"]["command"][-1])
    needed_seconds = pre_stop_seconds + float(option("--drain-timeout", name)) + CLEARING_SECONDS
    assert PODS[name]["template"]["spec"]["terminationGracePeriodSeconds"] > needed_seconds


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_an_ordinary_user_with_limits_and_probes(name: str) -> None:
    pod = container(name)
    assert PODS[name]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert "memory" in pod["resources"]["limits"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(pod)
    # Without the key no other route answers.
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "tcpSocket" in pod[probe] or pod[probe]["httpGet"]["path"] == "/health"


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget"])
def test_selectors_match_pods(kind: str) -> None:
    labels = [pod["template"]["metadata"]["labels"].items() for pod in PODS.values()]
    selectors = [item["spec"]["selector"] for item in OBJECTS if item["kind"] == kind]
    assert selectors
    for selector in selectors:
        required = selector.get("matchLabels", selector).items()
        assert sum(required <= pod_labels for pod_labels in labels) == 1


@pytest.mark.parametrize("name", PODS)
def test_a_pod_listens_on_the_port_of_its_container(name: str) -> None:
    (port,) = container(name)["ports"]
    image = container(name)["image"].rpartition(":")[2]
    assert str(port["containerPort"]) == last(LAUNCH / "containers" / f"{image}.Dockerfile", "EXPOSE")


def test_the_router_knows_every_worker() -> None:
    arguments = [*entrypoint("cpu"), *container("speechlm-router")["args"]]
    workers = PODS["speechlm-worker"]
    expected = [
        f"http://speechlm-worker-{number}.{workers['serviceName']}:9000" for number in range(workers["replicas"])
    ]
    options = read(arguments)
    assert list(options.urls) == expected
    assert (options.workers, options.host, options.port) == (0, "0.0.0.0", 9000)
    assert options.log_format == "json"


def test_router_and_workers_use_the_same_key() -> None:
    assert option("--api-key", "speechlm-router") == option("--api-key", "speechlm-worker") == "$(SPEECHLM_API_KEY)"
    assert container("speechlm-router")["env"] == container("speechlm-worker")["env"]


def test_the_launcher_accepts_the_workers_options() -> None:
    from sglang_speechlm.options.command_line import build_parser

    arguments = [*entrypoint("cuda"), *container("speechlm-worker")["args"]]
    _, rest = build_parser().parse_known_args(arguments)
    assert {argument.partition("=")[0] for argument in rest if argument.startswith("-")} == {
        "--host", "--port", "--enable-metrics", "--api-key"
    }  # fmt: skip


def entrypoint(profile: str) -> list[str]:
    """The launcher's arguments in an image, which come before those of a pod."""
    command: list[str] = json.loads(last(LAUNCH / "containers" / f"{profile}.Dockerfile", "ENTRYPOINT"))
    return command[3:]


def test_commands_in_comments_name_existing_files() -> None:
    for file in (*DOCKERFILES, MANIFEST, LAUNCH / "prometheus" / "prometheus.yml"):
        for line in re.findall(r"^#   (.*)", file.read_text(), re.MULTILINE):
            for word in shlex.split(line):
                assert not word.startswith("launch/") or (ROOT / word).exists()
