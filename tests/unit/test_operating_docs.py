"""The documents for operators name options, routes, variables and files that there are."""

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
ROUTES_OF_THE_FRONT = {"/readiness", "/workers"}
OF_OTHER_PROGRAMS = {"--config.file", "--output", "--rehearse", "--timeout"}
GUIDES_SECONDS = 3600


def quoted(document: Path) -> list[str]:
    """What stands in backticks outside of blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL))


def known_options() -> set[str]:
    """Of the launcher: ours, a fleet's and SGLang's."""
    from sglang_speechlm.options.command_line import build_parser

    parser = build_parser()
    fleet = argparse.ArgumentParser(add_help=False)
    add_fleet_options(fleet)
    from sglang.srt.server_args import ServerArgs

    sglangs = argparse.ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(sglangs)
    return {name for each in (parser, fleet, sglangs) for name in re.findall(r"--[\w-]+", each.format_help())}


@pytest.mark.parametrize("document", NAMING_OPTIONS, ids=lambda file: file.stem)
def test_every_option_is_one_of_the_launchers(document: Path) -> None:
    named = {word for text in quoted(document) for word in re.findall(r"(?<![\w-])--[a-z][\w.-]*", text)}
    assert named
    assert named - OF_OTHER_PROGRAMS <= known_options()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_every_variable_is_one_of_sglangs(document: Path) -> None:
    from sglang.srt import environ, utils

    source = Path(environ.__file__).read_text() + Path(utils.common.__file__).read_text()
    source += "".join(file.read_text() for file in (ROOT / "sglang_speechlm").rglob("*.py"))
    for text in quoted(document):
        for name in re.findall(r"\bSGLANG_[A-Z_]+", text):
            assert name in source


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_every_route_is_served(document: Path, metered: Server) -> None:
    routes = {text for text in quoted(document) if re.fullmatch(r"/[a-z_]+", text)} - {"/tmp"}
    assert routes
    with Client(metered.url) as client:
        for route in routes - ROUTES_OF_THE_FRONT:
            assert client.http.get(route).status_code in (200, 405)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_every_file_is_there(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    assert all((document.parent / link).exists() for link in links)
    named = re.findall(r"(?:launch|clients)/[\w/.-]*", document.read_text())
    assert all((ROOT / name).exists() for name in named)


def test_a_request_may_take_as_long_as_the_guide_says_all_the_way() -> None:
    from sglang.srt.environ import envs

    seconds = OwnOptions().request_seconds
    assert seconds >= GUIDES_SECONDS
    assert _router_seconds(seconds) > seconds
    assert _router_seconds(10 * seconds) > 10 * seconds
    assert envs.SGLANG_REQ_WAITING_TIMEOUT.get() < 0
    assert envs.SGLANG_REQ_RUNNING_TIMEOUT.get() < 0
