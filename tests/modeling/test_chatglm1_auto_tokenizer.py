"""ChatGLM-6B's tokenizer in `AutoTokenizer` and in pipelines."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from glmja.convert import convert
from glmja.modeling.chatglm1_auto_tokenizer import ChatGLM1AutoTokenizer
from glmja.modeling.generation import generate_ids
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.modeling.sampling import Sampling
from tests.support.strategies import FORGERIES

TEXTS = ["你好", "a\tb\n\nc", "x" + " " * 90 + "y", "  前后  ", "ＡＢＣ，！？", "😀 ㌔", "", *FORGERIES]


@pytest.fixture(scope="module")
def folder(chatglm1_dir, tmp_path_factory):
    output = tmp_path_factory.mktemp("auto") / "glm"
    convert(str(chatglm1_dir), str(output), "glm")
    return output


@pytest.fixture(scope="module")
def auto(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def own(folder):
    return ModelFolder.open(folder).tokenizer


def test_prompts_have_the_ids_of_glmja_and_no_control_tokens_of_the_text(auto, own):
    assert isinstance(auto, ChatGLM1AutoTokenizer) and len(auto) == len(own)
    for text in TEXTS:
        ids = own.encode(text)
        assert auto(text)["input_ids"] == own.prompt_ids(ids)
        assert auto(text, add_special_tokens=False)["input_ids"] == ids
        assert auto.decode(auto(text)["input_ids"], skip_special_tokens=True) == own.decode(ids)


def test_a_pair_is_a_prompt_and_its_answer(auto, own):
    ids = auto("一", "二")["input_ids"]
    assert ids == [*own.prompt_ids(own.encode("一")), *own.encode("二"), own.eos_id]
    assert auto.decode(ids) == "一[gMASK]<sop>二<eop>"
    assert auto.convert_tokens_to_ids("<sop>") == own.control_id("<sop>")
    assert auto.convert_ids_to_tokens(ids[-1]) == "<eop>"


def test_batches_are_padded_on_the_left(auto, own):
    batch = auto(["你好", "你好你好你好"], padding=True, return_tensors="pt")
    assert batch["attention_mask"][0, 0] == 0 and batch["input_ids"][0, 0] == own.control_id("<pad>")
    assert batch["input_ids"][:, -2:].tolist() == [own.prefix_ids] * 2


def test_a_saved_tokenizer_is_loaded_again(auto, tmp_path):
    auto.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("你好")["input_ids"] == auto("你好")["input_ids"]


def test_a_pipeline_says_what_glmja_says(folder, auto, own):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    says = pipeline("text-generation", model=model, tokenizer=auto, device="cpu")
    questions = ["你好", "请用一句话介绍北京。"]
    said = says(questions, max_new_tokens=8, do_sample=False, batch_size=2, return_full_text=False)
    wanted = generate_ids(
        load_model(folder, torch.float32), own, [own.prompt_ids(own.encode(q)) for q in questions], Sampling(8)
    )
    assert [answer[0]["generated_text"] for answer in said] == [own.decode(ids) for ids, _ in wanted]
