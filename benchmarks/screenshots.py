"""The page's screenshots for the README: its three views, light and dark, of a log made up for it.

    python -m benchmarks.screenshots

It needs the requirements of the tests and Debian's package `chromium`. The log is the same in each
run but for its days, which end today.
"""

import json
import math
import random
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Page, ViewportSize

from tests.browser import chromium
from tests.processes import SERVE, process

RESULTS = Path(__file__).parent / "results"
DAYS = 8
KEY = "screenshots"
SIZE: ViewportSize = {"width": 1280, "height": 720}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
MODELS = {"llama3.2:3b": 62.0, "qwen3:8b": 31.0, "tinyllama:latest": 118.0}  # tokens a second
QUESTIONS = {
    "Why is the sky blue?": "Air scatters blue light four times as much as red.",
    "Write a haiku about a log file": "Lines fall, one by one\nnothing that was said is lost",
    "Explain fsync to somebody who knows files": "It returns when the disk has the bytes.",
    "Übersetze ins Englische: Der Hund schläft unter dem Tisch.": "The dog sleeps there.",
    "Give me a regular expression for ISO dates": r"`\d{4}-\d{2}-\d{2}` matches the shape.",
    "Summarise the release notes in three bullets": "- Sooner\n- Smaller\n- Safer",
    "What is the capital of Australia?": "Canberra.",
    "Name three uses of a bloom filter": "Skipping reads, spotting repeats, keeping caches.",
}
BUSY = "http://localhost:11434 is busy: maximum pending requests exceeded"


def entry(chance: random.Random, finished: datetime) -> dict[str, Any]:
    """Return one entry, made up; its keys are those of the log."""
    prompt, response = chance.choice(list(QUESTIONS.items()))
    model = chance.choices(list(MODELS), [5, 3, 1])[0]
    tokens = max(5, int(chance.lognormvariate(5, 0.8)))
    first = chance.lognormvariate(5.3, 0.5) + (4000 if chance.random() < 0.02 else 0)
    duration = first + tokens * 1000 / MODELS[model] / chance.gauss(1, 0.08)
    status = chance.choices(["ok", "error", "cancelled"], [94, 3, 3])[0]
    return {
        "id": str(uuid.UUID(int=chance.getrandbits(128), version=4)),
        "started_at": stamp(finished - timedelta(milliseconds=duration)),
        "finished_at": stamp(finished),
        "duration_ms": round(duration, 3),
        "endpoint": chance.choice(["/generate", "/stream", "/stream", "/api/generate"]),
        "llm_type": "ollama",
        "model": model,
        "status": status,
        "prompt": prompt,
        "system": None,
        "options": {"temperature": 0.2} if chance.random() < 0.3 else None,
        "format": None,
        "think": None,
        "response": {"ok": response, "error": "", "cancelled": response[:40]}[status],
        "thinking": None,
        "error": {"ok": None, "error": BUSY, "cancelled": "the client left"}[status],
        "ttft_ms": None if status == "error" else round(first, 3),
        "prompt_tokens": 20 + len(prompt) // 4,
        "response_tokens": tokens if status == "ok" else None,
        "finish_reason": "stop" if status == "ok" else None,
        "tool_calls": None,
        "request": None,
        "client": "127.0.0.1",
        "user_agent": "python-httpx/0.28.1",
        "trace_id": None,
    }


def stamp(moment: datetime) -> str:
    """Return the moment as the log writes it."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def moments(chance: random.Random) -> Iterator[datetime]:
    """Yield the moments of some thousand requests, more by day than by night, up to now."""
    now = datetime.now(UTC)
    moment = now - timedelta(days=DAYS)
    while True:
        rate = 20 + 15 * math.sin((moment.hour - 8) / 24 * math.tau)  # an hour
        moment += timedelta(hours=chance.expovariate(max(2, rate)))
        if moment > now - timedelta(minutes=5):
            return
        yield moment


def write_log(folder: Path) -> None:
    """Write a log of eight days."""
    chance = random.Random(10)
    folder.mkdir(mode=0o700, parents=True)
    entries = [entry(chance, moment) for moment in moments(chance)]
    for each in entries:
        with (folder / f"{each['finished_at'][:10]}.jsonl").open("a") as file:
            file.write(json.dumps(each) + "\n")


def ask(page: Page, url: str) -> None:
    """Ask, and wait for the whole answer."""
    page.goto(f"{url}/#ask")
    page.get_by_label("Prompt").fill("Why is the sky blue?")
    page.get_by_role("button", name="Ask", exact=True).click()
    page.get_by_text("Done ·").wait_for()


def look(page: Page, url: str, name: str) -> None:
    """Take the pictures of the three views."""
    page.goto(f"{url}/#key={KEY}")
    page.locator("tbody tr").nth(20).wait_for()
    page.get_by_text("counting").wait_for(state="detached")
    page.screenshot(path=RESULTS / f"page-log-{name}.png")
    page.goto(f"{url}/#figures")
    page.locator("svg").nth(2).wait_for()
    page.screenshot(path=RESULTS / f"page-figures-{name}.png")
    ask(page, url)
    page.screenshot(path=RESULTS / f"page-ask-{name}.png")


def main() -> None:
    """Make the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        log_dir = Path(folder) / "logs"
        write_log(log_dir)
        with (
            process(SERVE, log_dir, MINIVAULT_LOG_KEY=KEY) as service,
            chromium() as browser,
        ):
            for scheme in SCHEMES:
                page = browser.new_page(viewport=SIZE, color_scheme=scheme)
                look(page, service.url, scheme)
                page.close()


if __name__ == "__main__":
    main()
