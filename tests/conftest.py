"""Fixtures shared by the tests; base, tokenizer and Zero model of the laptop twin are made once per session.

Fixtures import what they need: xdist's first process, which runs no test, need not wait for torch.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.cpu_seconds import CpuSeconds
from tests.support.manual_clock import ManualClock
from tests.support.shared import made_once, shared_folder

if TYPE_CHECKING:
    from glmja.tokenization.tokenizer import GLMTokenizer

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("GLMJA_DATA", ROOT.parent / "shared" / "data"))

# configurations of the tests also name classes of tests.support
os.environ["GLMJA_ALLOW_IMPORTS"] = "tests"

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("default")


def pytest_addoption(parser):
    parser.addoption("--cpu", type=int, metavar="N", help="show processor seconds by room, and of N files and tests")


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell has started the tests in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.cpu:
        config.pluginmanager.register(CpuSeconds(config.option.cpu))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """With models this small, more threads are slower, most of all with several test processes."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the ChatGLM3 tokenizer and of text corpora; absent on most machines."""
    if not DATA.is_dir():
        pytest.skip("no shared/data beside the project and no $GLMJA_DATA")
    return DATA


@pytest.fixture
def clock(monkeypatch) -> ManualClock:
    """The clock by which the time of training is measured."""
    from glmja.modeling import training_clock

    clock = ManualClock()
    monkeypatch.setattr(training_clock, "time", clock)
    return clock


@pytest.fixture
def forked_check(monkeypatch) -> None:
    """The process that loads an export to check it is forked from a server that has done the imports, not spawned."""
    from glmja.verification import export
    from tests.support.programs.launch import fork_server

    monkeypatch.setattr(export, "_new_processes", fork_server)


@pytest.fixture(scope="session")
def texts() -> dict[str, list[str]]:
    from glmja.files.documents import read_documents
    from glmja.twin import build as twin

    return {language: list(read_documents([twin.text_file(language)])) for language in twin.LANGUAGES}


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory) -> Path:
    """Folder of the models that all tests share; none may change them."""
    return shared_folder(tmp_path_factory) / "models"


@pytest.fixture(scope="session")
def base_dir(models_dir, texts) -> Path:
    from glmja.twin import build as twin

    return made_once(models_dir / "base", lambda new: twin.build_base(new, texts["zh"] + texts["en"], hidden_size=64))


@pytest.fixture(scope="session")
def tokenizer_dir(models_dir, base_dir) -> Path:
    from glmja.build_tokenizer import build_tokenizer
    from glmja.twin import build as twin

    corpus = [str(twin.text_file("ja"))]
    return made_once(
        models_dir / "tokenizer",
        lambda new: build_tokenizer(str(base_dir), str(new), corpus=corpus, num_new_pieces=600),
    )


@pytest.fixture(scope="session")
def zero_dir(models_dir, base_dir, tokenizer_dir) -> Path:
    from glmja.resize_embeddings import resize_embeddings

    return made_once(models_dir / "zero", lambda new: resize_embeddings(str(base_dir), str(tokenizer_dir), str(new)))


@pytest.fixture(scope="session")
def chatglm1_dir(models_dir, texts) -> Path:
    """A tiny random ChatGLM-6B."""
    from tests.support.chatglm1 import build_folder

    return made_once(models_dir / "chatglm1", lambda new: build_folder(new, texts["zh"] + texts["en"]))


@pytest.fixture(scope="session")
def base_tokenizer(base_dir) -> GLMTokenizer:
    from glmja.families.recognition import load_tokenizer

    return load_tokenizer(base_dir)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir) -> GLMTokenizer:
    from glmja.tokenization.tokenizer import GLMTokenizer

    return GLMTokenizer.load(tokenizer_dir)


def pytest_make_parametrize_id(val, argname):
    """Names bytes by their argument: compressed ones hold the time, and all processes must collect the same ids."""
    return argname if isinstance(val, bytes) else None


# rooms whose tests start runs and processes
LONG = ("system", "commands", "lit_modules", "interop", "callbacks", "project")


def pytest_collection_modifyitems(items):
    """Puts long files first, so that at the end no process waits for one of them."""
    rooms = {item: item.path.relative_to(ROOT / "tests").parts[0] for item in items}
    items.sort(key=lambda item: LONG.index(rooms[item]) if rooms[item] in LONG else len(LONG))


def pytest_itemcollected(item):
    assert " object at 0x" not in item.nodeid, f"the id of {item.nodeid} differs between processes"
