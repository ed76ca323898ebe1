from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = {path.name: path for path in (ROOT / "glmja").iterdir() if (path / "__init__.py").is_file()}
ROOMS |= {name: ROOT / name for name in ("data_modules", "lit_modules", "callbacks")}
ACROSS_ROOMS = {"commands", "system", "interop", "project", "support"}
FOLDERS = {path.name: path for path in (ROOT / "tests").iterdir() if path.is_dir() and any(path.rglob("*.py"))}


def test_every_folder_of_tests_belongs_to_a_room_or_is_about_several():
    assert FOLDERS.keys() <= ROOMS.keys() | ACROSS_ROOMS


@pytest.mark.parametrize("room", sorted(FOLDERS.keys() & ROOMS.keys()))
def test_every_test_file_of_a_room_is_named_after_one_of_its_modules(room):
    modules = {path.stem for path in ROOMS[room].rglob("*") if path.is_dir() or path.suffix == ".py"}
    subjects = {path.stem.removeprefix("test_") for path in FOLDERS[room].rglob("test_*.py")}
    assert {name for name in subjects if not any(name == m or name.startswith(f"{m}_") for m in modules)} == set()
