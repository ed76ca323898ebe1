import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness.scorecard import by_room, function_length, num_untyped_mappings, read_modules

ROOT = Path(__file__).parents[2]
PACKAGES = ("glmja", "data_modules", "lit_modules", "callbacks")
CODE = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

# Room → rooms that it may import. CONTRIBUTING.md shows the same table. `glmja.errors` is open to all.
MAY_IMPORT = {
    "glmja.text": "",
    "glmja.files": "text",
    "glmja.tokenization": "text files",
    "glmja.weights": "files",
    "glmja.cli": "text files",
    "glmja.families": "files tokenization weights",
    "glmja.runs": "text files tokenization weights families",
    "glmja.twin": "files tokenization weights families",
    "glmja.modeling": "text files tokenization weights families",
    "glmja.conversation": "text tokenization families modeling",
    "glmja.evaluation": "text files tokenization modeling conversation",
    "glmja.verification": "text tokenization weights runs modeling conversation evaluation",
    "glmja.demo": (
        "text files cli tokenization twin modeling conversation evaluation "
        "build_tokenizer resize_embeddings fit export evaluate"
    ),
    "data_modules": "files tokenization families runs modeling conversation",
    "lit_modules": "files weights cli families runs modeling",
    "callbacks": "text files runs modeling conversation evaluation",
}
COMMANDS = {path.stem for path in (ROOT / "glmja").glob("*.py")} - {"__init__", "__main__", "errors"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    members = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}  # `from glmja import fit`
    return plain | {node.module for node in froms} | members


def room_of(module: str) -> str | None:
    """The room of a module; None for other projects' modules and for what is open to all."""
    package, *inner = module.split(".")
    if package not in PACKAGES or module in ("glmja", "glmja.__version__") or inner[:1] == ["errors"]:
        return None
    return f"glmja.{inner[0]}" if package == "glmja" else package


def imported_rooms(path: Path) -> set[str]:
    return {room for module in imported_modules(path) if (room := room_of(module))} - {room_of(module_name(path))}


def test_every_folder_of_code_has_a_row_in_the_table():
    rooms = {room_of(module_name(path)) for path in CODE} - {f"glmja.{command}" for command in COMMANDS}
    assert rooms - {None, "glmja.__main__"} <= MAY_IMPORT.keys()


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_what_the_table_allows(room):
    allowed = {f"glmja.{name}" for name in MAY_IMPORT[room].split()}
    imported = {path: imported_rooms(path) for path in CODE if room_of(module_name(path)) == room}
    assert {path: rooms - allowed for path, rooms in imported.items() if rooms - allowed} == {}
    assert allowed - set().union(*imported.values()) == set(), "allowed, but not used"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_imports_no_other_command(command):
    others = {f"glmja.{name}" for name in COMMANDS}
    lightning = set() if command == "fit" else {"data_modules", "lit_modules", "callbacks"}
    assert not imported_rooms(ROOT / "glmja" / f"{command}.py") & (others | lightning)


def test_the_library_does_not_import_lightning():
    for path in (ROOT / "glmja").rglob("*.py"):
        if path.name != "fit.py":
            assert not {n for n in imported_modules(path) if n.startswith("lightning")}, path


def test_imports_have_no_cycle():
    names = {module_name(path): path for path in CODE}
    graph = {name: (imported_modules(path) & names.keys()) - {name} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...] = ()) -> None:
        assert name not in above, f"import cycle: {' → '.join([*above, name])}"
        if name not in done:
            for below in graph[name]:
                visit(below, (*above, name))
            done.add(name)

    for name in graph:
        visit(name)


MODULES = read_modules(ROOT)


def test_no_room_holds_more_than_15_percent_of_the_code():
    lines = by_room(MODULES, lambda module: module.num_lines)
    room, most = lines.most_common(1)[0]
    assert most / lines.total() <= 0.15, room


def test_the_root_of_the_library_holds_the_commands_and_little_else():
    assert len(list((ROOT / "glmja").glob("*.py"))) <= 10


def test_files_and_functions_are_short():
    assert {module.name: n for module in MODULES if (n := module.num_lines) > 300} == {}
    functions = {f"{module.name}.{node.name}": function_length(node) for module in MODULES for node in module.functions}
    assert {name: length for name, length in functions.items() if length > 60} == {}


def test_mappings_of_anything_are_rare():
    counts = {module.name: n for module in MODULES if (n := num_untyped_mappings(module))}
    assert sum(counts.values()) <= 40, counts


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_of_a_model_or_checkpoint_is_ever_run(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"trust_remote_code|weights_only\s*=\s*False", text)


def test_lint_format_and_types_are_clean():
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
