"""What the service prints: its loggers, and the filters that keep the output private and readable.

`deploy/logging.json` is for people, `deploy/logging-jsonl.json` for machines: a JSON object a line.
"""

import logging
import re

ACCESS = "uvicorn.access"
LOGGERS = ("minivault", "uvicorn.error", ACCESS)
PROBES = {"/health", "/ready", "/metrics"}
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal may take for commands: C0 but tab and line end, DEL, and C1."""


def prepare_loggers() -> None:
    """Have MiniVault's and uvicorn's loggers print with levels and filters, however they are set
    up."""
    ours = logging.getLogger("minivault")
    if not ours.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(LevelFormatter("%(levelprefix)s %(message)s"))
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        for filter in (AccessFilter(), ControlsFilter()):
            if not any(type(each) is type(filter) for each in logger.filters):
                logger.addFilter(filter)


class LevelFormatter(logging.Formatter):
    """Writes the level as uvicorn does: `INFO:     …`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.__dict__["levelprefix"] = f"{record.levelname}:".ljust(9)
        return super().formatMessage(record)


class AccessFilter(logging.Filter):
    """Leaves out successful probes, and query strings: a search of the log is private."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to print the record; remove the query from an access record."""
        if record.name != ACCESS or not isinstance(record.args, tuple):
            return True
        client, method, target, version, status = record.args
        path = str(target).partition("?")[0]
        record.args = (client, method, path, version, status)
        return path not in PROBES or status != 200


class ControlsFilter(logging.Filter):
    """Escapes control characters that a client or a file brought."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return that the record is printed, without control characters."""
        record.msg = escape_controls(str(record.msg))
        if isinstance(record.args, tuple):
            record.args = tuple(
                escape_controls(str(each)) if isinstance(each, str | Exception) else each
                for each in record.args
            )
        return True


def escape_controls(text: str) -> str:
    """Return the text with `\\x1b` and the like for its control characters."""
    return CONTROLS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


class FieldsFilter(logging.Filter):
    """Names the parts of an access record, and removes uvicorn's coloured text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attributes of the record that its line should have; return that it is printed."""
        record.__dict__.pop("color_message", None)
        if record.name == ACCESS and isinstance(record.args, tuple):
            names = ("client", "method", "path", "http_version", "status")
            record.__dict__.update(zip(names, record.args, strict=True))
        return True
