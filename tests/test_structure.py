"""The layout: few modules at the root, folders with one sentence each, imports in no circle."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

from tests.processes import ROOT

FOLDERS = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]


def modules() -> dict[str, Path]:
    """Return the service's modules by their names."""
    paths = [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in folder.rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return dict(zip(names, paths, strict=True))


def imported(path: Path) -> set[str]:
    """Return the names that a module imports, wherever it does so."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_imports_go_in_no_circle() -> None:
    known = modules()
    graph = {name: imported(path) & known.keys() for name, path in known.items()}
    assert sum(map(len, graph.values())) > 100
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_folders_import_in_no_circle() -> None:
    """What is at the root counts as no folder: it uses them, and `web` and `gateway` use it."""
    known = modules()
    graph = {
        folder.name: {
            name.partition(".")[0]
            for path in folder.rglob("*.py")
            for name in imported(path) & known.keys()
            if "." in name
        }
        - {folder.name}
        for folder in FOLDERS
    }
    TopologicalSorter(graph).prepare()


def test_the_log_is_read_without_the_web_framework() -> None:
    known = modules()
    below = {name for name in known if name.startswith("log.")}
    for name in below:
        assert not {"fastapi", "starlette"} & {each.split(".")[0] for each in imported(known[name])}


def test_few_modules_are_at_the_root() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 12


def test_every_folder_says_in_one_sentence_what_it_is() -> None:
    assert len(FOLDERS) > 4
    for folder in FOLDERS:
        docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        assert docstring and re.fullmatch(r"[A-Z][^.\n]+\.", docstring), folder
