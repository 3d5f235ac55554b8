"""What Prefect's own code writes of a lost connection or of a refusal is kept out of a
log: one line says it.

Each of its services would write a traceback for itself, in each flow process; of a
refused step Prefect writes the sentence as the step's state, too.
"""

from __future__ import annotations

import logging

import httpx
from websockets.exceptions import WebSocketException

from protocol.errors import ConsiliumError

_LOST = (httpx.HTTPError, WebSocketException, ConnectionError, TimeoutError, EOFError)


def hush() -> None:
    """To be called once in each process, after Prefect has been imported.

    The import sets Prefect's loggers up.
    """
    for handler in _handlers():
        handler.addFilter(_is_worth_a_line)


def _handlers() -> set[logging.Handler]:
    """Those to which the records of Prefect's loggers come.

    The root's, and those that some of them have.
    """
    handlers = set(logging.getLogger().handlers)
    for logger_name in logging.root.manager.loggerDict:
        package = logger_name.split(".")[0]
        if package == "prefect":
            handlers.update(logging.getLogger(logger_name).handlers)
    return handlers


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    if not record.exc_info or not record.name.startswith("prefect"):
        return True
    _, error, _ = record.exc_info
    # Planned errors have a sentence, which is enough; others are news, and stay.
    return not isinstance(error, (*_LOST, ConsiliumError))
