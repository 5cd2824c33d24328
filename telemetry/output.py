"""Filters for what the service prints, named by the files for uvicorn's `--log-config`.

`deploy/logging.json` is for people, `deploy/logging-jsonl.json` for machines: a JSON object a line.
"""

import logging

ACCESS = "uvicorn.access"
PROBES = {"/health", "/ready", "/metrics"}


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


class FieldsFilter(logging.Filter):
    """Names the parts of an access record, and removes uvicorn's coloured text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Set the attributes of the record that its line should have; return that it is printed."""
        record.__dict__.pop("color_message", None)
        if record.name == ACCESS and isinstance(record.args, tuple):
            names = ("client", "method", "path", "http_version", "status")
            record.__dict__.update(zip(names, record.args, strict=True))
        return True
