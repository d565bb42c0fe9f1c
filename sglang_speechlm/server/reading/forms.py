"""Read forms with a sound file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.requests import Request

from sglang_speechlm.server.edge.body import read_form, weigh
from sglang_speechlm.server.edge.errors import ApiError, bad_field, from_validation
from sglang_speechlm.server.edge.names import parse

Body = TypeVar("Body", bound=BaseModel)

_OBJECTS = ("speechlm", "vllm_xargs", "logit_bias", "stop_token_ids")
"""Fields that a form has as JSON."""
_BRACKETED = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")


@dataclass(frozen=True, eq=False)
class Upload:
    """An uploaded file.

    Attributes:
        data: the file's bytes.
        format: the suffix of its name, in lower case; None if it has none.
    """

    data: bytes
    format: str | None


async def read_upload(http: Request, kind: type[Body]) -> tuple[Body, Upload]:
    """Return a form's validated fields and its file.

    Raises:
        ApiError: 415, 413, or 400 with the name of the field.
    """
    form = await read_form(http)
    items = form.multi_items()
    file = form.get("file")
    if len(form.getlist("file")) > 1:
        raise _given_twice("file")
    if not isinstance(file, UploadFile):
        raise bad_field("file", f"must be an uploaded file; got {'nothing' if file is None else 'text'}")
    upload = Upload(await file.read(), (file.filename or "").rpartition(".")[2].lower() or None)
    await form.close()
    fields = _unfolded(item for item in items if item[0] != "file")
    try:
        return kind.model_validate(fields, strict=False), upload
    except ValidationError as error:
        raise from_validation(error, fields) from error


def _unfolded(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a form's fields as in a JSON body: lists from ``name[]``, objects from ``name[member]`` or JSON.

    A form has no null: clients leave a field without a value empty.

    Raises:
        ApiError: 413, or 400 for a field or a member that is given twice.
    """
    fields: dict[str, Any] = {}
    for name, value in items:
        if value == "":
            continue
        if bracketed := _BRACKETED.fullmatch(name):
            name, member = bracketed.groups()
            found = fields.setdefault(name, {} if member else [])
            if member and isinstance(found, dict) and member not in found:
                found[member] = value
            elif not member and isinstance(found, list):
                found.append(value)
            else:
                raise _given_twice(name)
        elif name in fields:
            raise _given_twice(name)
        elif name in _OBJECTS:
            raw = value.encode()
            weigh(raw)
            try:
                fields[name] = parse(raw)
            except orjson.JSONDecodeError:
                fields[name] = value
        else:
            fields[name] = value
    return fields


def _given_twice(name: str) -> ApiError:
    return bad_field(name, "must be given once, and in one form (name, name[] for each item, or name[member])")
