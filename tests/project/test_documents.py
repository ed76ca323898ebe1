import importlib
import re
from pathlib import Path

import pytest

import glmja
from tests.project.test_architecture import MAY_IMPORT

ROOT = Path(__file__).parents[2]
CURRENT = ["README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))]
CODE = r"(?:glmja|data_modules|lit_modules|callbacks|benchmarks)"


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


def test_the_newest_release_in_the_change_log_is_the_version_of_the_package():
    releases = re.findall(r"^## (\S+) - (\d{4}-\d\d-\d\d)$", read("CHANGELOG.md"), re.MULTILINE)
    assert releases[0][0] == glmja.__version__
    assert [date for _, date in releases] == sorted((date for _, date in releases), reverse=True)
