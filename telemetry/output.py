"""What the service prints, made fit for those who read it: filters for uvicorn's `--log-config`.

`deploy/logging.json` is for people, `deploy/logging-jsonl.json` for machines: a JSON object a line.
"""

import logging

ACCESS = "uvicorn.access"
PROBES = {"/health", "/ready", "/metrics"}


class AccessFilter(logging.Filter):
    """Leaves out probes that went well, and the query: what is looked for in the log is private."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record is to be printed; shortens the path of an access record."""
        if record.name != ACCESS or not isinstance(record.args, tuple):
            return True
        client, method, target, version, status = record.args
        path = str(target).partition("?")[0]
        record.args = (client, method, path, version, status)
        return path not in PROBES or status != 200


class FieldsFilter(logging.Filter):
    """Gives the parts of an access record names, and removes uvicorn's coloured text."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Say that the record is to be printed, once its attributes are what a line should have."""
        record.__dict__.pop("color_message", None)
        if record.name == ACCESS and isinstance(record.args, tuple):
            names = ("client", "method", "path", "http_version", "status")
            record.__dict__.update(zip(names, record.args, strict=True))
        return True
