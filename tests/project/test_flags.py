"""The library does not know the flags of commands: its messages name parameters, and each command adds its flags."""

import ast
import re
from pathlib import Path

import pytest
from jsonargparse import capture_parser

from glmja import fit

ROOT = Path(__file__).parents[2]
# the demo calls the commands by their flags
ROOMS = [
    path for path in (ROOT / "glmja").iterdir() if path.is_dir() and path.name not in ("cli", "demo", "__pycache__")
]
ROOMS += [ROOT / name for name in ("data_modules", "lit_modules", "callbacks")]
LIBRARY = [ROOT / "glmja" / "errors.py", *(path for room in ROOMS for path in sorted(room.rglob("*.py")))]
for name in ("fit_cli.py", "fit_parser.py"):  # the command line of `fit` itself
    LIBRARY.remove(ROOT / "lit_modules" / name)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_of_the_library_names_a_flag(path):
    texts = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)]
    named = [
        (node.lineno, found[0])
        for node in texts
        if isinstance(node.value, str)
        and "python -m glmja." not in node.value  # a whole command, as in a model card
        and (found := re.search(r"(?<![\w-])--[a-z][\w.-]*", node.value))
    ]
    assert not named, "name the parameter in backticks instead; see glmja/errors.py"


def test_what_fit_calls_a_parameter_is_a_key_of_its_configuration():
    recipes = [[f"--config={ROOT}/configs/demo_{name}.yaml"] for name in ("pretrain", "sft")]
    configs = [capture_parser(lambda: fit.main(recipe)).parse_args(recipe) for recipe in recipes]  # noqa: B023
    for name, spelling in fit.FLAGS.items():
        if name != "fused":  # not every optimizer has it
            (key,) = re.findall(r"[a-z_]+(?:\.[a-z_]+)+|(?<=--)[a-z_]+", spelling)
            assert any(key in config for config in configs), spelling
