"""Function calls: how they are described to a model, how its text contains them, and how it reads their results.

The form is that of Hermes and Qwen3: JSON between tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sglang_speechlm.prompt.thinking import opening

ToolForm = Literal["none", "hermes"]
"""How a checkpoint was trained to call functions: not at all; as JSON between ``<tool_call>`` and ``</tool_call>``."""

PARSERS: dict[str, ToolForm] = {"none": "none", "hermes": "hermes", "qwen": "hermes", "qwen25": "hermes"}
"""Values of --tool-call-parser: these, and SGLang's names of parsers that read the same tags."""

START = "<tool_call>"
END = "}\n</tool_call>"
"""The end of a call, from the brace after its arguments on; a JSON string has no line breaks."""
SEPARATOR = "\n"
"""Between two calls."""


def head(name: str) -> str:
    """Return the text between ``START`` and the arguments of a call."""
    return f'\n{{"name": {json.dumps(name)}, "arguments": '


_HEAD = re.compile(re.escape(head("NAME")).replace('"NAME"', '"([^"]*)"'))


@dataclass(frozen=True)
class Function:
    """A function that a text may call.

    Attributes:
        name: of letters, digits, underscores and hyphens.
        parameters: the JSON Schema of the arguments, an object, to which a call keeps.
        described: the function as the request describes it.
    """

    name: str
    parameters: Mapping[str, Any]
    described: Mapping[str, Any]


@dataclass(frozen=True)
class CallRules:
    """The functions that a text may call.

    Attributes:
        functions: at least one.
        is_required: whether the text is calls only; otherwise it may end without any.
        is_parallel: whether there may be several.
    """

    functions: tuple[Function, ...]
    is_required: bool = False
    is_parallel: bool = True


@dataclass(frozen=True)
class CallDelta:
    """More of a call.

    Attributes:
        index: number of the call in the text.
        name: the function, in the first delta of a call; else None.
        arguments: more of its arguments, as JSON.
    """

    index: int
    name: str | None = None
    arguments: str = ""


def instructions(functions: Sequence[Function]) -> str:
    """Return the text that tells the model which functions it may call, and how."""
    listed = "\n".join(
        json.dumps({"type": "function", "function": dict(function.described)}, ensure_ascii=False)
        for function in functions
    )
    form = spelled("FUNCTION", "{...}").replace('"FUNCTION"', "<name of the function>")
    return (
        f"# Tools\n\nYou may call these functions, of which each line describes one:\n<tools>\n{listed}\n</tools>\n\n"
        f"Write each call of a function, with its arguments as JSON, in this form:\n{form}"
    )


def spelled(name: str, arguments: str) -> str:
    """Return a call as the model writes it; ``arguments`` is JSON."""
    return f"{START}{head(name)}{arguments}{END}"


def result(content: str) -> str:
    """Return the text of the user's turn with the result of a call."""
    return f"<tool_response>\n{content}\n</tool_response>"


def call_grammar(rules: CallRules) -> str:
    """Return the rules as JSON, the form in which the text stage passes them to the scheduler's grammar backend."""
    functions = [{"name": function.name, "parameters": function.parameters} for function in rules.functions]
    return json.dumps({"functions": functions, "is_required": rules.is_required, "is_parallel": rules.is_parallel})


class CallSplitter:
    """Separates calls from the rest of a text that arrives in pieces; the text keeps to the form of ``spelled``.

    White space after a call, and a call that ends before its arguments begin, are dropped.
    """

    def __init__(self) -> None:
        self._held = ""
        self._calls = 0
        self._until: str | re.Pattern[str] = START

    def push(self, text: str) -> Iterator[str | CallDelta]:
        """Take more of the text; yield the content and the parts of calls that are now decided."""
        self._held += text
        while True:
            if isinstance(self._until, re.Pattern):
                if (found := self._until.match(self._held)) is None:
                    return
                self._held, self._until = self._held[found.end() :], END
                yield CallDelta(self._calls, name=found[1])
                continue
            before, end, after = self._held.partition(self._until)
            settled = before if end else before[: len(before) - opening(before, self._until)]
            self._held = after if end else before[len(settled) :]
            yield from self._part(settled)
            if not end:
                return
            if self._until == END:
                self._calls += 1
                self._until = START
            else:
                self._until = _HEAD

    def flush(self) -> Iterator[str | CallDelta]:
        """Yield the rest, after the end of the text."""
        held, self._held = self._held, ""
        is_end_of_call = self._until == END and len(held) > 1
        if not isinstance(self._until, re.Pattern) and not is_end_of_call:
            yield from self._part(held)

    def _part(self, text: str) -> Iterator[str | CallDelta]:
        if self._until == END:
            # In strings whose length is limited, xgrammar allows control characters, which JSON has escaped.
            text = re.sub(r"[\x00-\x1f]", lambda found: f"\\u{ord(found[0]):04x}", text)
            if text:
                yield CallDelta(self._calls, arguments=text)
        elif text and not (self._calls and text.isspace()):
            yield text
