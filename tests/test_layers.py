"""Imports go from pipelines to gfnet, never up, and the library knows neither Ray nor MLflow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"gfnet": {"gfnet"}, "pipelines": {"gfnet", "pipelines"}}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_upwards(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    above = {"gfnet", "pipelines", "tune", "cluster", "notebooks", "tests"} - MAY_IMPORT[package]
    assert not imported(path) & above
    if package == "gfnet":
        assert not imported(path) & {"ray", "mlflow", "pyarrow"}
