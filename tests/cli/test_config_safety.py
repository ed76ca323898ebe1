from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import get_loader

from glmja import evaluate, fit
from glmja.cli import config_safety
from tests.support.programs import command_line

ROOT = Path(__file__).parents[2]
RECIPE = ["--config", str(ROOT / "configs" / "demo_pretrain.yaml")]


@pytest.fixture
def evil(tmp_path):
    """A package that leaves a trace when it is imported."""
    (tmp_path / "evilmod.py").write_text(
        "from pathlib import Path\nfrom lightning import Callback\nPath(__file__).with_name('ran').touch()\n"
        "class Cb(Callback): pass\n"
    )
    return tmp_path


def fit_with(tmp_path, callback, **environment):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    args = [*RECIPE, "--config", "run.yaml", "--print_config"]
    return command_line.run(tmp_path, "glmja.fit", args, cwd=tmp_path, environment=environment)


def test_a_class_of_an_unknown_package_is_refused_before_it_is_imported(evil):
    done = fit_with(evil, {"class_path": "evilmod.Cb"}, GLMJA_ALLOW_IMPORTS="")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "Importing 'evilmod.Cb' is not allowed; only lit_modules, data_modules, callbacks, light" in done.stderr
    assert not (evil / "ran").exists()


def test_a_user_can_allow_a_package_of_their_own(evil):
    done = fit_with(evil, {"class_path": "evilmod.Cb"}, GLMJA_ALLOW_IMPORTS="somewhere.else, evilmod")
    assert done.returncode == 0, done.stderr
    assert "class_path: evilmod.Cb" in done.stdout and (evil / "ran").exists()


@pytest.mark.parametrize("name", ["os.abort", "subprocess.Popen", "builtins.exec", "torch.hub.load"])
def test_a_function_of_an_unknown_package_is_refused_as_argument(tmp_path, monkeypatch, capsys, name):
    callback = {"class_path": "lightning.pytorch.callbacks.LambdaCallback", "init_args": {"on_train_start": name}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    with pytest.raises(SystemExit) as stop:
        fit.main([*RECIPE, "--config", str(tmp_path / "run.yaml"), "--run_dir", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert f"Importing '{name}' is not allowed" in capsys.readouterr().err


def test_the_variable_of_allowed_imports_must_name_packages(monkeypatch, capsys):
    monkeypatch.setenv(config_safety.ALLOW_VARIABLE, "*")
    with pytest.raises(SystemExit) as stop:
        fit.main(RECIPE)
    assert stop.value.code == 2
    assert "GLMJA_ALLOW_IMPORTS=*: '*' is only accepted in import_path_denylist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key 'a' occurs twice, in lines 1 and 3"),
        ("a: {x: 1, x: 2}\n", "the key 'x' occurs twice, in lines 1 and 1"),
        ("a:\n  x: 1\n  x: 1\n", "the key 'x' occurs twice, in lines 2 and 3"),
        ("- {y: 1}\n- z:\n  - q: 1\n    q: 2\n", "the key 'q' occurs twice, in lines 3 and 4"),
    ],
)
def test_a_key_that_occurs_twice_is_an_error(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        config_safety.load_yaml(text)


MILLIONS = "a: &a [1, 2]\n" + "".join(f"{x}: &{x} [{', '.join([f'*{y}'] * 9)}]\n" for y, x in pairwise("abcdefgh"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- " * 60, "more than 50 levels or 10000 values, counting aliases; shorten the file"),
        ("a: &a [*a]", "more than 50 levels or 10000 values, counting aliases"),
        (MILLIONS, "more than 50 levels or 10000 values, counting aliases"),
        ("a: *b", "found undefined alias"),
        ("a: !!bool x", "a value cannot be read: .*; quote it"),
    ],
)
def test_yaml_that_no_configuration_needs_is_an_error(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        config_safety.load_yaml(text)


@pytest.mark.parametrize("verb", [fit, evaluate])
def test_every_command_refuses_a_repeated_key(tmp_path, capsys, verb):
    (tmp_path / "twice.yaml").write_text("model: a\noutput: b\nmodel: c\n")
    with pytest.raises(SystemExit) as stop:
        verb.main(["--config", str(tmp_path / "twice.yaml")])
    assert stop.value.code == 2
    assert "the key 'model' occurs twice, in lines 1 and 3" in capsys.readouterr().err


KEYS = st.text("abcdef", min_size=1, max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abcあ:#- ", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef", min_size=1, max_size=3), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_yaml_with_unique_keys_is_read_as_jsonargparse_reads_it(content):
    text = yaml.safe_dump(content, allow_unicode=True)
    assert config_safety.load_yaml(text) == get_loader("yaml")(text)
