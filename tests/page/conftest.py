"""What tests in a browser share: the browser, a service and its log, a page about to show it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser import CHROMIUM, chromium, innocent_page
from tests.conftest import DEADLINE, Service, Way
from tests.ollama_stand_in import Behaviour, Conversation

needs_browser = pytest.mark.skipif(not CHROMIUM, reason="needs Debian's package chromium")

expect.set_options(timeout=DEADLINE * 1000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser; all tests of a module share it."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page in a session of its own."""
    with innocent_page(browser, DEADLINE) as page:
        yield page


@pytest.fixture
def opened(through: Way, page: Page) -> "Opened":
    """A service whose log the page may read."""
    assert through.service
    return Opened(through.service, page)


class Opened:
    """A service, its log, and a page that is about to show it."""

    def __init__(self, service: Service, page: Page) -> None:
        self.service = service
        self.page = page
        self.key = (service.log_dir / ".key").read_text().strip()

    def show(self, address: str = "#log") -> None:
        """Come by the link that the start prints, and go to an address of the page."""
        self.page.goto(f"{self.service.url}/#key={self.key}")
        self.page.goto(f"{self.service.url}/{address}")

    def write(self, *entries: dict[str, Any]) -> None:
        """Add entries to the log, oldest first."""
        for entry in entries:
            with (self.service.log_dir / f"{entry['finished_at'][:10]}.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")

    @property
    def rows(self) -> Locator:
        """The log's rows."""
        return self.page.locator("#log tbody tr")

    @property
    def entry(self) -> Locator:
        """The entry that is open."""
        return self.page.get_by_role("dialog")


def chat(*texts: str, thinking: tuple[str, ...] = (), end: Behaviour | None = None) -> Behaviour:
    """Answer on `/api/chat` with these tokens after these thoughts, then end in some other way."""

    async def answer(talk: Conversation) -> None:
        await talk.start()
        for thought in thinking:
            message = {"role": "assistant", "content": "", "thinking": thought}
            await talk.line(message=message, done=False)
        for text in texts:
            await talk.line(message={"role": "assistant", "content": text}, done=False)
        await (end or Conversation.done)(talk)

    return answer


def ago(**age: float) -> str:
    """Return the moment so long ago, as the log writes it."""
    return (datetime.now(UTC) - timedelta(**age)).isoformat().replace("+00:00", "Z")


def entry(number: int = 0, **fields: Any) -> dict[str, Any]:
    """Return an entry of the log."""
    return {
        "id": f"00000000-0000-4000-8000-{number:012}",
        "started_at": ago(seconds=9),
        "finished_at": ago(seconds=7),
        "duration_ms": 2000.0,
        "endpoint": "/generate",
        "llm_type": "ollama",
        "model": "tinyllama",
        "status": "ok",
        "prompt": f"Question {number}",
        "system": None,
        "options": None,
        "format": None,
        "think": None,
        "response": f"Answer {number}",
        "thinking": None,
        "error": None,
        "ttft_ms": 500.0,
        "prompt_tokens": 7,
        "response_tokens": 30,
        **fields,
    }
