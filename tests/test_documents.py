"""What is written for readers: links lead somewhere, settings are all there."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

from settings import PREFIX, Settings
from tests.processes import ROOT

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "deploy/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
)
MARKDOWN = MarkdownIt("commonmark").enable("table")


def links(path: Path) -> list[str]:
    """Return where the links and pictures of a document lead."""
    inline = [token for token in MARKDOWN.parse(path.read_text()) if token.type == "inline"]
    parts = [part for token in inline for part in token.children or ()]
    found = [part.attrs.get("href") or part.attrs.get("src") for part in parts]
    return [str(target) for target in found if target]


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in links(path):
        if re.match(r"[a-z]+:", target):
            assert target.startswith(("https://", "http://localhost:8000")), target
            continue
        name, _, anchor = unquote(target).partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists() and there.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(there), target


def test_every_document_is_reached_from_the_readme() -> None:
    reached, left = set(), [ROOT / "README.md"]
    while left:
        path = left.pop()
        reached.add(path)
        there = [(path.parent / link.partition("#")[0]).resolve() for link in links(path)]
        left += [each for each in there if each in DOCUMENTS and each not in reached]
    assert reached == set(DOCUMENTS)


def rows(document: str) -> dict[str, list[str]]:
    """Return the rows of a document's tables: the names in the first cell, and the other cells."""
    found = {}
    for row in re.findall(r"^\| (`.+) \|$", (ROOT / document).read_text(), re.MULTILINE):
        first, *others = re.split(r" \| ", row)
        found |= dict.fromkeys(re.findall(r"`(\w+)`", first), others)
    return found


def test_every_setting_has_a_row_with_its_default() -> None:
    documented = rows("docs/settings.md")
    assert list(documented) == [PREFIX + name.upper() for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        default = documented[PREFIX + name.upper()][0].strip("`")
        match field.default:
            case bool(value):
                assert default == str(value).lower(), name
            case int(value) | float(value):
                assert float(default) == value, name
            case str(value) if name != "ollama_base_url":
                assert default == value, name
