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


def in_full(key):
    """Returns a key of a configuration with `init_args` after the names of classes."""
    return re.sub(r"\b((?:model|data|optimizer|lr_scheduler|strategy)\.)", r"\1init_args.", key)


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
            assert any(in_full(key) in config for config in configs), spelling


def test_an_error_names_the_parameters_of_a_run_in_backticks():
    names = "|".join(name for name in fit.FLAGS if "_" in name)  # the others are words, too
    bare = re.compile(rf"(?<![`.\w-])(?:{names})\b(?!`)")
    raised = [
        (path.name, node.lineno, found[0])
        for path in LIBRARY
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Raise) and node.exc
        for part in ast.walk(node.exc)
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and (found := bare.search(part.value))
    ]
    assert not raised


TEXTS = ["README.md", "CONTRIBUTING.md", *("docs/" + page.name for page in (ROOT / "docs").glob("*.md"))]
FOLDERS = ("glmja", "lit_modules", "data_modules", "callbacks", "benchmarks", "configs")
TEXTS += [
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".yaml", ".md")
]
# here jsonargparse is given its own names
TEXTS = [name for name in TEXTS if name not in ("glmja/cli/named_lists.py", "lit_modules/fit_parser.py")]


@pytest.mark.parametrize("name", TEXTS)
def test_flags_are_spelled_in_their_short_form(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    in_words = [] if name.startswith("benchmarks/") else re.findall(r"\b(?:model|data)\.init_args\.\w", text)
    assert not re.findall(r"--[\w.]*init_args", text) + in_words  # benchmarks may have tables of keys


@pytest.mark.parametrize("flags", [
    ("--model.embeddings=new_rows", "--model.optimizer.lr=0.5", "--model.lr_scheduler.warmup=0.5"),
    ("--data.row_len=64", "--data.sources.ja.weight=0.5", "--callbacks.ChatSampler.every_n_steps=7", "--chats=false"),
    ("--trainer.strategy.timeout_minutes=30", "--trainer.max_steps=3", "--model.retention.languages=[zh, en]"),
], ids=["model", "lists", "nested"])  # fmt: skip
def test_the_short_form_of_a_flag_sets_what_the_long_one_does(flags):
    stack = [f"--config={ROOT}/configs/{name}.yaml" for name in ("pretrain", "presets/zero2")]
    config = capture_parser(lambda: fit.main(stack)).parse_args([*stack, *flags])
    for flag in flags:
        key, _, value = flag.removeprefix("--").partition("=")
        if "callbacks" in key or "sources" in key:
            assert value in str(config)
        else:
            assert str(config[in_full(key)]).replace("'", "") == {"false": "False", "30": "30.0"}.get(value, value)
