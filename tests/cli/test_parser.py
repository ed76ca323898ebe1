import dataclasses
import importlib
import json
import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import capture_parser
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.strategies import Strategy

import data_modules
import lit_modules
from glmja.cli.named_lists import SOURCES
from glmja.cli.parser import _PATHS, CliParser, is_flag, spell_flags
from lit_modules.fit_parser import BOOLEANS_OF_CLASSES

ROOT = Path(__file__).parents[2]
REQUIRED = {
    "build_tokenizer": ["--base=a", "--output=b"],
    "resize_embeddings": ["--base=a", "--tokenizer=b", "--output=c"],
    "export": ["--output=a"],
    "evaluate": ["--model=a", "--output=b"],
    "chat": ["--model=a"],
    "convert": ["--model=a", "--output=b"],
    "fit": [f"--config={ROOT}/configs/demo_pretrain.yaml"],
    "demo.pipeline": [],
}
VERBS = list(REQUIRED)


def parser_of(verb):
    return capture_parser(importlib.import_module(f"glmja.{verb}").main, REQUIRED[verb])


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_can_be_written_with_hyphens(verb):
    parser = parser_of(verb)
    defaults = parser.get_defaults().items()
    values = {key: json.dumps(value) for key, value in defaults if type(value) in (bool, int, float)}
    values |= {key: value for key, value in defaults if isinstance(value, str)}
    with_hyphens = {key.replace("_", "-"): value for key, value in values.items()}
    plain, joined, separate = (
        parser.parse_args([*REQUIRED[verb], *args])
        for args in (
            [f"--{key}={value}" for key, value in values.items()],
            [f"--{key}={value}" for key, value in with_hyphens.items()],
            [arg for key, value in with_hyphens.items() for arg in (f"--{key}", value)],
        )
    )
    assert plain == joined == separate
    for key, _ in defaults:
        assert spell_flags([f"--{key.replace('_', '-')}=a-b", "c-d"], ()) == [f"--{key}=a-b", "c-d"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_boolean_flag_can_stand_alone(verb):
    parser = parser_of(verb)
    booleans = [key for key, default in parser.get_defaults().items() if isinstance(default, bool)]
    alone = parser.parse_args([*(f"--{key}" for key in booleans), *REQUIRED[verb]])
    given = parser.parse_args([*REQUIRED[verb], *(arg for key in booleans for arg in (f"--{key}", "true"))])
    refused = parser.parse_args([*REQUIRED[verb], *(arg for key in booleans for arg in (f"--{key}", "false"))])
    assert alone == given
    assert all(given[key] is True and refused[key] is False for key in booleans)


def bool_parameters(cls):
    """Yields the boolean parameters of a class, those of dataclasses that it takes after a dot."""
    for name, kind in typing.get_type_hints(cls.__init__).items():
        for one in (kind, *typing.get_args(kind)):
            if one is bool:
                yield name
            elif dataclasses.is_dataclass(one):
                yield from (f"{name}.{inner}" for inner in bool_parameters(one))


@pytest.mark.parametrize(
    ("holder", "package"), [("model", lit_modules), ("data", data_modules), ("trainer.strategy", lit_modules)]
)
def test_every_boolean_of_a_class_can_stand_alone(holder, package):
    kind = {"model": LightningModule, "data": LightningDataModule, "trainer.strategy": Strategy}[holder]
    classes = [one for one in vars(package).values() if isinstance(one, type) and issubclass(one, kind)]
    found = {name: f"{package.__name__}.{one.__name__}" for one in classes for name in bool_parameters(one)}
    assert set(found) == set(BOOLEANS_OF_CLASSES[holder])
    parser = parser_of("fit")
    for name, class_path in found.items():
        recipe = f"--config={ROOT}/configs/demo_{'sft' if 'SFT' in class_path else 'pretrain'}.yaml"
        chosen = [f"--{holder}={class_path}"] if holder == "trainer.strategy" else []
        alone, given = (
            parser.parse_args([recipe, *chosen, *args])
            for args in ([f"--{holder}.{name.replace('_', '-')}"], [f"--{holder}.init_args.{name}", "true"])
        )
        assert alone == given and alone[f"{holder}.init_args.{name}"] is True


def test_a_boolean_flag_can_stand_before_a_short_one():
    assert spell_flags(["--preview", "-c", "x"], ["preview"]) == ["--preview=true", "-c", "x"]


def test_names_of_users_keep_their_hyphens():
    given = ["--data.init-args.sources.ja-wiki.text-key=a", "--data.sources.a-b", "--data.cache-dir=x"]
    spelled = ["--data.init_args.sources.ja-wiki.text_key=a", "--data.sources.a-b", "--data.cache_dir=x"]
    assert spell_flags(given, (), SOURCES) == spelled


@pytest.mark.parametrize(
    "flag",
    [
        "--data.tokens", "--model.init-args.model-dir", "--trainer.strategy.stage", "--callbacks.peak-tflops",
        "--data.sources.ja", "--data.sources.ja.lang", "--callbacks.ChatSampler",
    ],
)  # fmt: skip
def test_a_flag_of_a_class_without_its_value_is_named(flag, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser_of("fit").parse_args([*REQUIRED["fit"], flag, "-c", "x"])
    assert f"argument {flag.replace('-', '_').replace('__', '--')}: expected one argument" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_path_is_refused(verb, capsys):
    parser = parser_of(verb)
    known = [key for key, _ in parser.get_defaults().items() if key in _PATHS]
    paths = [key for key in known if verb != "fit" or key != "model"]  # there, it is a class
    paths += ["model.model_dir", "data.cache_dir"] if verb == "fit" else []
    assert paths
    for key in paths:
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([*REQUIRED[verb], f"--{key}", ""])
        assert f"error: --{key} is empty, perhaps from an unset variable of the shell; give" in capsys.readouterr().err


def test_every_parameter_of_a_command_that_is_a_path_is_known_as_one():
    others = {"check", "text", "generate", "tools", "prompt", "config"}  # LANG=FILE; text or -; read before
    for verb in VERBS:
        actions = parser_of(verb)._actions
        named = {a.dest for a in actions if re.search(r"\b(folder|file|path|checkpoint of a run)\b", str(a.help), re.I)}
        kinds = {a.dest for a in actions if re.search("str", str(getattr(a, "_typehint", a.type)))}
        assert {key for key in named & kinds if "." not in key} - others <= _PATHS, verb


@pytest.mark.parametrize("holder", ["model", "data"])
def test_the_help_of_a_class_needs_no_value(holder, capsys):
    with pytest.raises(SystemExit, match="0"):
        parser_of("fit").parse_args([f"--{holder}.help"])
    assert "usage:" in capsys.readouterr().out


def test_a_boolean_of_a_callback_can_stand_alone_and_its_keys_have_hyphens():
    added = "--trainer.callbacks+=callbacks.LargestBatchCheck"
    for flags in (["--callbacks.LargestBatchCheck.on-cpu"], ["--trainer.callbacks.on-cpu=true"]):
        config = parser_of("fit").parse_args([*REQUIRED["fit"], added, *flags, "--preview"])
        assert config.trainer.callbacks[-1].init_args.on_cpu is True


def test_an_unknown_key_of_a_class_is_no_flag(capsys):
    with pytest.raises(SystemExit, match="2"):
        parser_of("fit").parse_args([*REQUIRED["fit"], "--model.lora.rnk=1"])
    assert "model: Option 'lora.rnk' is not accepted; did you mean lora.rank?\n" in capsys.readouterr().err


@pytest.mark.parametrize("verb", VERBS)
def test_an_abbreviated_flag_is_unknown(verb, capsys):
    flag = {"fit": "--run_di", "demo.pipeline": "--outpu"}.get(verb, "--famil")
    with pytest.raises(SystemExit, match="2"):
        parser_of(verb).parse_args([*REQUIRED[verb], flag, "x"])
    assert re.search(f"error: unknown flag {flag}; did you mean --{flag[2:]}.\\?", capsys.readouterr().err)


def test_a_missing_flag_is_named_as_it_is_given(capsys):
    with pytest.raises(SystemExit, match="2"):
        parser_of("resize_embeddings").parse_args(["--base=a"])
    assert "error: the following arguments are required: --tokenizer, --output (--help" in capsys.readouterr().err
    schedule = "--model.lr_scheduler=torch.optim.lr_scheduler.ExponentialLR"
    with pytest.raises(SystemExit, match="2"):
        parser_of("fit").parse_args([*REQUIRED["fit"], schedule])
    assert "lr_scheduler: the following arguments are required: gamma (--help" in capsys.readouterr().err


NAMES = st.from_regex(r"[a-z]+([_.-][a-z]+)*", fullmatch=True)
VALUES = st.text(max_size=5).filter(lambda text: not is_flag(text))


@given(NAMES, VALUES)
def test_values_are_never_changed(name, value):
    name = name.replace("-", "_")
    assert spell_flags([f"--{name}={value}"], [name]) == [f"--{name}={value}"]
    assert spell_flags([f"--{name}", value], [name]) == [f"--{name}", value]


def test_a_value_may_begin_with_a_hyphen(capsys):
    parser = CliParser(prog="x")
    parser.add_argument("--max_steps", type=int)
    parser.add_argument("--some_text", type=str)
    config = parser.parse_args(["--max-steps", "-1", "--some-text=--a-b"])
    assert (config.max_steps, config.some_text) == (-1, "--a-b")
    with pytest.raises(SystemExit):
        parser.parse_args(["--max-steps"])
    assert "x: error: argument --max_steps: expected one argument" in capsys.readouterr().err


def test_the_loader_of_other_parsers_is_unchanged(tmp_path):
    from jsonargparse import ArgumentParser

    CliParser()
    other = ArgumentParser(exit_on_error=False)
    other.add_argument("--a", type=int)
    assert other.parse_string("a: 1\na: 2").a == 2
