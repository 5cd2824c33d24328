"""The protocols that are served, and what is derived from them by a request's path."""

from protocols.anthropic import Messages
from protocols.base import Endpoint, Json, Protocol
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


def endpoints() -> list[tuple[Endpoint, Protocol]]:
    """Return every endpoint with its protocol."""
    return [(endpoint, protocol) for protocol in PROTOCOLS for endpoint in protocol.endpoints]


def find_protocol(path: str) -> Protocol | None:
    """Return the protocol with the longest prefix that the path begins with, if any."""
    fitting = [protocol for protocol in PROTOCOLS if path.startswith(protocol.prefix)]
    return max(fitting, key=lambda protocol: len(protocol.prefix), default=None)


def error_body(path: str, status: int, message: str) -> Json:
    """Return an error in the shape of the path's protocol, `{"detail": …}` where it has none."""
    protocol = find_protocol(path)
    return protocol.error_body(status, message) if protocol else {"detail": message}


def is_chat(path: str) -> bool:
    """Return whether the path takes a conversation, not one prompt."""
    return any(endpoint.path == path and endpoint.is_chat for endpoint, _ in endpoints())
