import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import glmja
from glmja.conversation.formats import to_messages
from glmja.errors import ExitCode
from glmja.evaluation.references import to_reference
from tests.project.test_architecture import MAY_IMPORT

ROOT = Path(__file__).parents[2]
CURRENT = ["README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
PACKAGES = ("glmja", "data_modules", "lit_modules", "callbacks", "benchmarks")
CODE = rf"(?:{'|'.join(PACKAGES)})"


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def exists(dotted):
    """Whether a dotted name is a module, or a member of one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            found = getattr(found, name, None)
        return found is not None
    return False


def test_contributing_shows_the_table_of_rooms_that_the_architecture_test_holds():
    rows = re.findall(r"^\| `([\w/]+)/` \| [^|]+ \| ([^|]+) \|$", read("CONTRIBUTING.md"), re.MULTILINE)
    shown = {room.replace("/", "."): set(re.findall(r"\w+", allowed)) for room, allowed in rows}
    assert shown == {room: set(allowed.split()) for room, allowed in MAY_IMPORT.items()}


@pytest.mark.parametrize("name", ["README.md", "docs/troubleshooting.md"])
def test_a_document_lists_every_exit_code(name):
    shown = {int(code) for code in re.findall(r"^\| (\d+) \| ", read(name), re.MULTILINE)}
    assert shown - {0} == set(ExitCode)


@pytest.mark.parametrize("name", CURRENT)
def test_every_python_name_in_a_document_exists(name):
    dotted = set(re.findall(rf"(?<![\w./-]){CODE}(?:\.\w+)+", read(name))) - {"benchmarks.ROOM.NAME"}
    assert not [one for one in sorted(dotted) if not exists(one)]


@pytest.mark.parametrize("name", CURRENT)
def test_every_file_that_a_document_names_exists(name):
    text, folder = read(name), (ROOT / name).parent
    links = [folder / link for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)]
    files = [ROOT / path for path in re.findall(rf"`((?:{CODE}|configs|tests|docs)/[\w/-]+\.\w+)`", text)]
    assert not [str(path) for path in links + files if not path.exists()]


def documented(path):
    """Yields the line and the docstring of a module and of its classes and functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
            yield f"{path.relative_to(ROOT)}:{node.body[0].lineno}", text


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_begin_with_a_verb_or_a_noun_phrase(package):
    words = {"What", "How", "Where", "Which", "Whether", "When", "Why", "Who"}
    found = [place for path in (ROOT / package).rglob("*.py") for place, text in documented(path)
             if text.split()[0] in words]  # fmt: skip
    assert not found


def load_generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_configuration_is_that_of_the_code():
    assert read("docs/configuration.md") == load_generator().page(), "run python docs/generate.py"


def test_the_lines_of_data_in_the_readme_are_read():
    text, *records = (
        json.loads(line) for line in re.search(r"```json\n(.*?)```", read("README.md"), re.S)[1].splitlines()
    )
    assert text["text"]
    for record, kind in zip(records[:3], ("messages", "sharegpt", "alpaca"), strict=True):
        assert [message["role"] for message in to_messages(record, kind)] == ["user", "assistant"]
    assert to_reference(records[3], "README.md").answers == ["春です。", "四月です。"]


def test_the_folders_of_the_recipes_are_those_of_the_readme():
    readme, ignored = read("README.md"), read(".gitignore").split()
    for name in ("pretrain", "sft"):
        sources = yaml.safe_load(read(f"configs/{name}.yaml"))["data"]["init_args"]["sources"]
        languages = ",".join(source["name"] for source in sources)
        assert [source["files"] for source in sources] == [[f"data/{name}/{x}"] for x in languages.split(",")]
        assert f"data/{name}/{{{languages}}}/" in readme
    assert {"/data/", "/models/", "/runs/"} <= set(ignored)


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files_that_are_published_with_it(page):
    """What `mkdocs build --strict` demands, also where mkdocs is not installed."""
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", read(f"docs/{page.name}"))
    assert [target for target in targets if not (page.parent / target).resolve().is_relative_to(page.parent)] == []
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_lines_of_the_readme_are_not_longer_than_those_of_the_code():
    assert [line for line in read("README.md").splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_the_glossary_has_at_most_eight_words():
    assert 0 < len(re.findall(r"^\| \*\*", read("docs/glossary.md"), re.M)) <= 8


@pytest.mark.skipif(not importlib.util.find_spec("material"), reason="mkdocs-material is not installed")
def test_the_pages_are_built_without_warnings(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_newest_release_in_the_change_log_is_the_version_of_the_package():
    releases = re.findall(r"^## (\S+) - (\d{4}-\d\d-\d\d)$", read("CHANGELOG.md"), re.MULTILINE)
    assert releases[0][0] == glmja.__version__
    assert [date for _, date in releases] == sorted((date for _, date in releases), reverse=True)
