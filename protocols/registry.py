"""The protocols that are served, and what is derived from them by a request's path."""

from protocols.anthropic import Messages
from protocols.base import Endpoint, Json, Protocol
from protocols.embeddings import NativeEmbeddings, OpenAIEmbeddings
from protocols.media import Images, Transcriptions
from protocols.native import Native
from protocols.openai import ChatCompletions, Responses

PROTOCOLS: list[Protocol] = [
    Native(),
    ChatCompletions(),
    Responses(),
    Messages(),
    Transcriptions(),
    Images(),
]


EMBEDDINGS: list[Protocol] = [NativeEmbeddings(), OpenAIEmbeddings()]
"""Those whose requests are recorded if the settings say so."""


def endpoints() -> list[tuple[Endpoint, Protocol]]:
    """Return every endpoint that is always recorded, with its protocol."""
    return [(endpoint, protocol) for protocol in PROTOCOLS for endpoint in protocol.endpoints]


def embeddings() -> list[tuple[Endpoint, Protocol]]:
    """Return the endpoints of embeddings, with their protocols."""
    return [(endpoint, protocol) for protocol in EMBEDDINGS for endpoint in protocol.endpoints]


def find_protocol(path: str) -> Protocol | None:
    """Return the protocol with the longest prefix that the path begins with, if any."""
    fitting = [protocol for protocol in PROTOCOLS if path.startswith(protocol.prefix)]
    return max(fitting, key=lambda protocol: len(protocol.prefix), default=None)


def error_body(path: str, status: int, message: str) -> Json:
    """Return an error in the shape of the path's protocol, `{"detail": …}` where it has none."""
    protocol = find_protocol(path)
    return protocol.error_body(status, message) if protocol else {"detail": message}


def find_operation(path: str) -> str:
    """Return what a request for the path does, as OpenTelemetry's conventions name it."""
    known = {endpoint.path: endpoint.operation for endpoint, _ in [*endpoints(), *embeddings()]}
    return known.get(path, "text_completion")  # as `/generate` and `/stream`
