"""A node's log: one JSON object a line, or plain lines for people."""

from __future__ import annotations

import json
import logging
import os
import sys
import time

_PLAIN = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class JsonLines(logging.Formatter):
    """``{"time": ISO 8601 in UTC, "level", "what": the logger's name, "message"}`` and the traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        content = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "what": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            content["traceback"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)


def begin(*, as_json: bool, level: int = logging.INFO) -> None:
    """Log everything of this package to stderr. Call it before gRPC is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # what matters of refused handshakes, our transport logs
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else logging.Formatter(_PLAIN))
    logger = logging.getLogger("coterie")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
