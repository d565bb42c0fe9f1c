"""Merge several processes' metrics into one page, in Prometheus' text format."""

from __future__ import annotations

import re
from collections.abc import Mapping

_HEAD = re.compile(r"# (?:HELP|TYPE) (\S+)")
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{)?")


def merge(router: str, workers: Mapping[str, str]) -> str:
    """Return one page of all samples, grouped by family as the format requires.

    Args:
        router: the router's page, whose samples are unchanged.
        workers: pages by their worker's URL, which becomes the label ``worker`` of their samples.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for url, page in [("", router), *workers.items()]:
        family, seen = "", set(heads)
        for line in page.splitlines():
            if head := _HEAD.match(line):
                family = head[1]
                if family not in seen:
                    heads.setdefault(family, []).append(line)
            elif sample := _SAMPLE.match(line):
                # A histogram's samples follow their header; a page without headers has one family per name.
                of = family if family and sample[1].startswith(family) else sample[1]
                samples.setdefault(of, []).append(_labelled(line, sample, url))
    families = dict.fromkeys([*heads, *samples])
    lines = [line for family in families for line in (*heads.get(family, ()), *samples.get(family, ()))]
    return "".join(f"{line}\n" for line in lines)


def _labelled(line: str, sample: re.Match[str], url: str) -> str:
    if not url:
        return line
    name, rest = sample[1], line[sample.end() :]
    label = f'worker="{url}"'
    if sample[2] is None:
        return f"{name}{{{label}}}{rest}"
    return f"{name}{{{label}{rest}" if rest.startswith("}") else f"{name}{{{label},{rest}"
