"""The table of requirements names tests that exist, and leaves none out."""

import ast
import re
from pathlib import Path
from typing import Final

_TESTS: Final = Path(__file__).parents[2]
_TABLE: Final = Path(__file__).with_name("lines.md")
_ROW: Final = re.compile(r"^\| (?P<line>[CS]\d+) \|[^|]+\| (?P<shown_by>[^|]+) \|$", re.MULTILINE)
_TEST: Final = re.compile(r"`([^`:]+)::(test_\w+)`")


def _tests_of(path: str) -> set[str]:
    tree = ast.parse((_TESTS / path).read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_each_line_is_shown_by_tests_that_exist() -> None:
    rows = {
        row["line"]: _TEST.findall(row["shown_by"])
        for row in _ROW.finditer(_TABLE.read_text(encoding="utf-8"))
    }
    assert list(rows) == [f"C{n}" for n in range(1, 99)] + [f"S{n}" for n in range(1, 37)]
    assert [line for line, tests in rows.items() if not tests] == []
    named = {(path, test) for tests in rows.values() for path, test in tests}
    defined = {path: _tests_of(path) for path, _ in named}
    assert sorted(f"{path}::{test}" for path, test in named if test not in defined[path]) == []
