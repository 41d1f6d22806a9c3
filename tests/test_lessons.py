"""The page of lessons is held to its word: every lesson has its row, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/explanation/lessons.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| b.")]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\([\w./-]+\.md\)")


def defined_in(path: str) -> set[str]:
    """The functions in a file, by its syntax tree; none if there is no such file."""
    file = ROOT / path
    tree = ast.parse(file.read_text() if file.exists() else "")
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_lesson_has_its_row():
    """b.1 to b.32, each once, in order, with four cells."""
    assert [(row[0], len(row)) for row in ROWS] == [(f"b.{number}", 4) for number in range(1, 33)]


def test_every_test_that_is_named_exists():
    """A test that was renamed or removed is renamed on the page, or its lesson finds another."""
    missing = [f"{path}::{name}" for path, name in TEST.findall(PAGE) if name not in defined_in(path)]

    assert missing == []


def test_every_lesson_is_held_by_something():
    """By a test, or by a page that answers it. (A test that is named in another way than the others is not found.)"""
    unheld = [row[0] for row in ROWS if not TEST.search(row[-1]) and not LINK.search(row[-1])]

    assert unheld == []
    assert PAGE.count("::") == len(TEST.findall(PAGE))
