"""Fixtures shared by the tests; base, tokenizer and Zero model of the laptop twin are made once per session."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from glmja.build_tokenizer import build_tokenizer
from glmja.families.recognition import load_tokenizer
from glmja.files.documents import read_documents
from glmja.modeling import training_clock
from glmja.resize_embeddings import resize_embeddings
from glmja.tokenization.tokenizer import GLMTokenizer
from glmja.twin import build as twin
from tests.support.manual_clock import ManualClock

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("GLMJA_DATA", ROOT.parent / "shared" / "data"))

# configurations of the tests also name classes of tests.support
os.environ["GLMJA_ALLOW_IMPORTS"] = "tests"

# with models this small, more threads are slower, most of all with several test processes
torch.set_num_threads(1)

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("default")


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the ChatGLM3 tokenizer and of text corpora; absent on most machines."""
    if not DATA.is_dir():
        pytest.skip("no shared/data beside the project and no $GLMJA_DATA")
    return DATA


@pytest.fixture
def clock(monkeypatch) -> ManualClock:
    """The clock by which the time of training is measured."""
    clock = ManualClock()
    monkeypatch.setattr(training_clock, "time", clock)
    return clock


@pytest.fixture(scope="session")
def texts() -> dict[str, list[str]]:
    return {language: list(read_documents([twin.text_file(language)])) for language in twin.LANGUAGES}


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory, texts) -> Path:
    folder = tmp_path_factory.mktemp("world") / "base"
    twin.build_base(folder, texts["zh"] + texts["en"], hidden_size=64)
    return folder


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory, base_dir) -> Path:
    folder = tmp_path_factory.mktemp("world") / "tokenizer"
    build_tokenizer(str(base_dir), str(folder), corpus=[str(twin.text_file("ja"))], num_new_pieces=600)
    return folder


@pytest.fixture(scope="session")
def zero_dir(tmp_path_factory, base_dir, tokenizer_dir) -> Path:
    folder = tmp_path_factory.mktemp("world") / "zero"
    resize_embeddings(str(base_dir), str(tokenizer_dir), str(folder))
    return folder


@pytest.fixture(scope="session")
def chatglm1_dir(tmp_path_factory, texts) -> Path:
    """A tiny random ChatGLM-6B."""
    from tests.support.chatglm1 import build_folder

    return build_folder(tmp_path_factory.mktemp("world") / "chatglm1", texts["zh"] + texts["en"])


@pytest.fixture(scope="session")
def base_tokenizer(base_dir) -> GLMTokenizer:
    return load_tokenizer(base_dir)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir) -> GLMTokenizer:
    return GLMTokenizer.load(tokenizer_dir)


def pytest_make_parametrize_id(val, argname):
    """Names bytes by their argument: compressed ones hold the time, and all processes must collect the same ids."""
    return argname if isinstance(val, bytes) else None


def pytest_itemcollected(item):
    assert " object at 0x" not in item.nodeid, f"the id of {item.nodeid} differs between processes"
