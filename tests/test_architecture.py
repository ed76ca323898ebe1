import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "glmja": {"glmja"},
    "data_modules": {"data_modules", "glmja"},
    "lit_modules": {"lit_modules", "glmja"},
    "callbacks": {"callbacks", "glmja"},
}
ABOVE_THE_ROOMS = ROOT / "glmja" / "fit.py"  # adds to every run what makes it safe to kill
CODE = [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    members = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}  # `from glmja import fit`
    return plain | {node.module for node in froms} | members


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_downwards_only(room):
    for path in (ROOT / room).rglob("*.py"):
        rooms = {name.split(".")[0] for name in imported_modules(path)} & MAY_IMPORT.keys()
        may = {"glmja", "lit_modules", "callbacks"} if path == ABOVE_THE_ROOMS else MAY_IMPORT[room]
        assert rooms <= may, path


def test_the_library_has_not_heard_of_lightning():
    for path in (ROOT / "glmja").glob("*.py"):
        if path.name != "fit.py":
            assert not {n for n in imported_modules(path) if n.startswith("lightning")}, path


def test_imports_have_no_cycle_and_are_shallow():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in CODE}
    # `errors` is but three names, which everything may raise
    graph = {name: (imported_modules(path) & names.keys()) - {name, "glmja.errors"} for name, path in names.items()}

    def depth(name: str, above: tuple[str, ...] = ()) -> int:
        assert name not in above, f"import cycle: {' → '.join([*above, name])}"
        return max((1 + depth(below, (*above, name)) for below in graph[name]), default=0)

    # an __init__ only passes names on, and the demo calls the other verbs
    assert max(depth(name) for name in graph if not name.endswith(("__init__", "demo"))) <= 6


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_of_others_is_ever_run(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"trust_remote_code|weights_only\s*=\s*False", text)


def test_lint_format_and_types_are_clean():
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
