"""Measures the structure of the code: sizes, imports, docstrings, types. Only reads the source, imports nothing of it.

    python -m benchmarks.harness.scorecard                # this checkout
    python -m benchmarks.harness.scorecard /tmp/old .     # two checkouts side by side

Lines are those of files (`wc -l`). The length of a function is its signature and body without its docstring. Imports
inside functions count. A public definition is a module, or a class, function or method without a leading underscore,
that is not nested in a function. A room is a folder of code. The table of rooms may hold a row for a room or for the
package around it.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.harness.arguments import ROOT
from benchmarks.harness.tables import markdown_table

PACKAGES = ("glmja", "data_modules", "lit_modules", "callbacks")
TABLE = "tests/project/test_architecture.py"  # holds the rooms that each room may import

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


@dataclass
class Module:
    """A file of source code.

    Attributes:
        name: Name by which it is imported.
        room: Its folder, with dots.
        text: Source code.
    """

    name: str
    room: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed source."""
        return ast.parse(self.text)

    @property
    def num_lines(self) -> int:
        """Number of lines of the file."""
        return self.text.count("\n")

    @cached_property
    def functions(self) -> list[Function]:
        """All functions and methods, nested ones included."""
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @cached_property
    def imports(self) -> set[str]:
        """Names of all modules and members that the module imports."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return found


def read_modules(root: Path, packages: Iterable[str] = PACKAGES) -> list[Module]:
    """Reads the modules of the packages below a checkout's root."""
    modules = []
    for path in (path for package in packages for path in sorted((root / package).rglob("*.py"))):
        inner = path.relative_to(root)
        name = ".".join(inner.with_suffix("").parts).removesuffix(".__init__")
        modules.append(Module(name, ".".join(inner.parent.parts), path.read_text("utf-8")))
    return modules


def function_length(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    length = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return length


def public_definitions(module: Module) -> list[ast.Module | Definition]:
    """Definitions that should have a docstring."""
    found: list[ast.Module | Definition] = [module.tree]
    waiting: list[ast.stmt] = list(module.tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Definition) and not node.name.startswith("_"):
            found.append(node)
            waiting += node.body if isinstance(node, ast.ClassDef) else []
    return found


def share(flags: Sequence[bool]) -> str:
    """Percentage of true flags."""
    return f"{sum(flags) / len(flags):.0%}" if flags else "–"


def num_untyped_mappings(module: Module) -> int:
    """Number of lines with `dict[str, Any]` or `Mapping[str, Any]`."""
    written = {"dict[str, Any]", "Mapping[str, Any]", "MutableMapping[str, Any]"}
    nodes = (node for node in ast.walk(module.tree) if isinstance(node, ast.Subscript))
    return len({node.lineno for node in nodes if ast.unparse(node) in written})


def import_graph(modules: Sequence[Module]) -> dict[str, set[str]]:
    """Module → modules among the given ones that it imports."""
    names = {module.name: module for module in modules}
    return {name: (module.imports & names.keys()) - {name} for name, module in names.items()}


def cycles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Strongly connected components by Tarjan's algorithm, imported ones first."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[set[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for imported in graph[name]:
            if imported not in index:
                visit(imported)
            if imported in stack:
                low[name] = min(low[name], low[imported])
        if low[name] == index[name]:
            start = stack.index(name)
            components.append(set(stack[start:]))
            del stack[start:]

    for name in graph:
        if name not in index:
            visit(name)
    return components


def import_depth(graph: Mapping[str, set[str]]) -> int:
    """Number of modules in the longest chain of imports; a cycle counts as one."""
    depth: dict[str, int] = {}
    for component in cycles(graph):
        below = {imported for name in component for imported in graph[name]} - component
        depth |= dict.fromkeys(component, 1 + max((depth[name] for name in below), default=0))
    return max(depth.values(), default=0)


def allowed_rooms(root: Path) -> dict[str, set[str]] | None:
    """Room → rooms that it may import, from the test that holds the table; None where there is no such table."""
    path = root / TABLE
    if not path.is_file():
        return None
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MAY_IMPORT":
            table: dict[str, str] = ast.literal_eval(node.value)
            if all(room.partition(".")[0] in PACKAGES and isinstance(names, str) for room, names in table.items()):
                return {room: {f"glmja.{name}" for name in names.split()} for room, names in table.items()}
    return None


def table_row(room: str, allowed: Mapping[str, set[str]]) -> str:
    """The row of the table for a room: its own, or the one of the package around it."""
    return room if room in allowed else room.rpartition(".")[0] or room


def forbidden_arrows(modules: Sequence[Module], allowed: Mapping[str, set[str]]) -> Counter[str]:
    """Number of imports against the table by room; the commands in the root of `glmja` have no row."""
    rows = {
        m.name: m.name if m.room == "glmja" else table_row(m.room, allowed)
        for m in modules
        if m.name not in ("glmja", "glmja.errors")
    }
    found: Counter[str] = Counter()
    for module in modules:
        row = table_row(module.room, allowed)
        if row in allowed:
            imported = {rows[name] for name in module.imports & rows.keys()}
            found[module.room] += len(imported - allowed[row] - {row})
    return found


def measures(modules: Sequence[Module]) -> dict[str, str]:
    """Figures of a package, or of all."""
    sizes = [module.num_lines for module in modules]
    lengths = sorted(function_length(function) for module in modules for function in module.functions)
    public = [ast.get_docstring(node) is not None for module in modules for node in public_definitions(module)]
    typed = [function.returns is not None for module in modules for function in module.functions]
    graph = import_graph(modules)
    p90 = lengths[int(0.9 * len(lengths))]
    return {
        "files / lines": f"{len(modules)} / {sum(sizes):,}",
        "file, median / max lines": f"{statistics.median(sizes):.0f} / {max(sizes)}",
        "function, median / p90 / max lines": f"{statistics.median(lengths):.0f} / {p90} / {lengths[-1]}",
        "import depth / largest cycle": f"{import_depth(graph)} / {max(map(len, cycles(graph)))}",
        "public docstrings": share(public),
        "return types": share(typed),
        "most files in a folder": str(max(Counter(module.room for module in modules).values())),
        "lines with dict[str, Any] or Mapping[str, Any]": str(sum(map(num_untyped_mappings, modules))),
    }


def by_room(modules: Sequence[Module], figure: Callable[[Module], int]) -> Counter[str]:
    """Sums of a figure of the modules by room."""
    sums: Counter[str] = Counter()
    for module in modules:
        sums[module.room] += figure(module)
    return sums


def score(root: Path) -> tuple[dict[str, dict[str, str]], list[list[str]]]:
    """Measures a checkout.

    Returns:
        Figures of each package and of `all`, and a row for each room: files, lines, share of the lines, lines with an
        untyped mapping, imports against the table.
    """
    modules = read_modules(root)
    figures = {name: measures([m for m in modules if m.name.split(".")[0] == name]) for name in PACKAGES}
    figures["all"] = measures(modules)
    lines, untyped = by_room(modules, lambda module: module.num_lines), by_room(modules, num_untyped_mappings)
    allowed = allowed_rooms(root)
    arrows = forbidden_arrows(modules, allowed) if allowed else None
    total = sum(lines.values())
    largest, most = max(lines.items(), key=lambda item: item[1])
    figures["all"] |= {
        "largest room, share of the lines": f"{most / total:.1%} ({largest})",
        "files in the root of glmja/": str(len(list((root / "glmja").glob("*.py")))),
        "imports against the table of rooms": str(sum(arrows.values())) if arrows is not None else "no table",
    }
    files = by_room(modules, lambda module: 1)
    rows = [
        [room, str(files[room]), f"{count:,}", f"{count / total:.1%}", str(untyped[room]),
         str(arrows[room]) if arrows is not None else "–"]
        for room, count in sorted(lines.items())
    ]  # fmt: skip
    return figures, rows


def main(args: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", type=Path, nargs="*", default=[ROOT], help="Root folders; this one by default.")
    scores = {str(root): score(root) for root in parser.parse_args(args).roots}
    for root, (figures, rooms) in scores.items():
        print(f"**{root}**\n")
        rows = [[name, *(figures[package].get(name, "") for package in figures)] for name in figures["all"]]
        print(markdown_table(["", *figures], rows), "\n")
        print(markdown_table(["room", "files", "lines", "share", "untyped mappings", "against the table"], rooms), "\n")
    if len(scores) > 1:
        names = next(iter(scores.values()))[0]["all"]
        rows = [[name, *(figures["all"][name] for figures, _ in scores.values())] for name in names]
        print(markdown_table(["", *scores], rows))


if __name__ == "__main__":
    main()
