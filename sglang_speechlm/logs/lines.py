"""The format of log lines, in every process of a server."""

from __future__ import annotations

import json
import logging
import logging.config
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sglang_speechlm.logs.entry import current_id

FORMATS = ("text", "json")
FIELDS = "speechlm_fields"
"""Attribute of a log record: the fields of its JSON line, instead of a message."""

_LEVEL = "SGLANG_SPEECHLM_LOG_LEVEL"
_SGLANGS_CONFIG = "SGLANG_LOGGING_CONFIG_PATH"
_TELLS_OPTIONS = "sglang.srt.entrypoints.engine"
_JSON_CONFIG = Path(__file__).with_name("json.json")


def configure(log_format: str, log_level: str, secrets: Sequence[str] = ()) -> None:
    """Configure the log of this process and its children. Call it before SGLang is started.

    SGLang's processes read their logging configuration from the file in SGLANG_LOGGING_CONFIG_PATH; the operator's own
    file is kept. The ``secrets`` are masked where SGLang logs its options.
    """
    from uvicorn.config import LOGGING_CONFIG

    # The request's line replaces uvicorn's access line, which has the query and no id.
    LOGGING_CONFIG["loggers"]["uvicorn.access"]["handlers"] = []
    if secrets:
        logging.getLogger(_TELLS_OPTIONS).addFilter(_Masked(secrets))
    if log_format == "json" and os.environ.get(_SGLANGS_CONFIG, str(_JSON_CONFIG)) == str(_JSON_CONFIG):
        os.environ[_LEVEL] = log_level.upper()
        os.environ[_SGLANGS_CONFIG] = str(_JSON_CONFIG)
        LOGGING_CONFIG["formatters"]["default"]["()"] = "sglang_speechlm.logs.JsonLines"
        logging.config.dictConfig(json.loads(_JSON_CONFIG.read_bytes()))


class _Masked(logging.Filter):
    """Masks secrets in messages."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        for secret in self._secrets:
            message = message.replace(repr(secret), "'***'")
        record.msg, record.args = message, ()
        return True


class JsonLines(logging.Formatter):
    """Formats each record as a JSON object on one line."""

    def __init__(self, **_text_only: Any) -> None:
        """Ignore the arguments of text formatters."""
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Return time (UTC), level, logger and process; then the fields of a request's line, or else the message, its
        request and the exception."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
        }
        fields = getattr(record, FIELDS, None)
        if fields is not None:
            line |= {"event": "request", **fields}
        else:
            line["message"] = record.getMessage()
            if (belongs := current_id()) is not None:
                line["request_id"] = belongs
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # accepts invalid UTF-8, too


def to_stderr() -> logging.Handler:
    """Create the handler of json.json, which has no field for the level."""
    logging.getLogger().setLevel(os.environ.get(_LEVEL, "INFO"))
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    return handler
