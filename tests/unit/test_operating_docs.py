"""The documents for operators name only options, routes, variables and files that exist."""

import argparse
import re
from pathlib import Path

import pytest
from server import Client, Server

from sglang_speechlm.fleet.router import _router_seconds
from sglang_speechlm.options.fleet import add_fleet_options
from sglang_speechlm.options.server import OwnOptions

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "docs" / name for name in ("operating.md", "troubleshooting.md")]
NAMING_OPTIONS = [*DOCUMENTS, *(ROOT / "docs" / name for name in ("api.md", "checkpoints.md", "launching.md"))]
FRONT_ROUTES = {"/readiness", "/workers"}
OPTIONS_OF_OTHER_PROGRAMS = {"--config.file", "--output", "--rehearse", "--timeout"}
GUIDE_SECONDS = 3600


def inline_code(document: Path) -> list[str]:
    """The inline code of a document."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL))


def known_options() -> set[str]:
    """The launcher's options, including those for a fleet and SGLang's."""
    from sglang_speechlm.options.command_line import build_parser

    parser = build_parser()
    fleet = argparse.ArgumentParser(add_help=False)
    add_fleet_options(fleet)
    from sglang.srt.server_args import ServerArgs

    sglang = argparse.ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(sglang)
    return {name for known in (parser, fleet, sglang) for name in re.findall(r"--[\w-]+", known.format_help())}


@pytest.mark.parametrize("document", NAMING_OPTIONS, ids=lambda file: file.stem)
def test_every_option_is_accepted_by_the_launcher(document: Path) -> None:
    named = {word for text in inline_code(document) for word in re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)}
    assert named
    assert named - OPTIONS_OF_OTHER_PROGRAMS <= known_options()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_every_variable_is_read_by_sglang_or_this_package(document: Path) -> None:
    from sglang.srt import environ, utils

    source = Path(environ.__file__).read_text() + Path(utils.common.__file__).read_text()
    source += "".join(file.read_text() for file in (ROOT / "sglang_speechlm").rglob("*.py"))
    for text in inline_code(document):
        for name in re.findall(r"\bSGLANG_[A-Z_]+", text):
            assert name in source


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_every_route_is_served(document: Path, metered: Server) -> None:
    routes = {text for text in inline_code(document) if re.fullmatch(r"/[a-z_]+", text)} - {"/tmp"}
    assert routes
    with Client(metered.url) as client:
        for route in routes - FRONT_ROUTES:
            assert client.http.get(route).status_code in (200, 405)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_every_file_exists(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    assert all((document.parent / link).exists() for link in links)
    named = re.findall(r"(?:launch|clients)/[\w/.-]*", document.read_text())
    assert all((ROOT / name).exists() for name in named)


def test_every_layer_allows_the_timeout_in_the_guide() -> None:
    from sglang.srt.environ import envs

    seconds = OwnOptions().request_seconds
    assert seconds >= GUIDE_SECONDS
    assert _router_seconds(seconds) > seconds
    assert _router_seconds(10 * seconds) > 10 * seconds
    assert envs.SGLANG_REQ_WAITING_TIMEOUT.get() < 0
    assert envs.SGLANG_REQ_RUNNING_TIMEOUT.get() < 0
