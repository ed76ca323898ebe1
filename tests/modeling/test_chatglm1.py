import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, StaticCache

from glmja.modeling import chatglm1
from glmja.modeling.chatglm1 import ChatGLM1ForCausalLM
from glmja.modeling.chatglm1_config import ChatGLM1Config
from tests.support.chatglm1 import EOP, GMASK, MASK, PAD, SOP, TINY, reference_model, tiny_model

# the padding tokenizer of the original sends positions that differ from those of its model
CASES = ["prompt0", "prompt1", "prompt2", "prompt3", "answer0", "answer1", "answer2", "training_batch", "mask_inside",
         "mask_and_gmask", "left_padded", "long", "long_answer"]  # fmt: skip
PROMPTS = [[5, 6, GMASK, SOP], [7, 8, MASK, 9, 10, 11, GMASK, SOP], [GMASK, SOP], [40, 41, 42, MASK, 43, SOP]]


@pytest.fixture(scope="module")
def folder(data):
    return data / "chatglm1_tiny"


@pytest.fixture(scope="module")
def tensors(folder):
    return load_file(folder / "expected.safetensors")


@pytest.fixture(scope="module")
def expected(folder):
    return json.loads((folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def reference(folder):
    return reference_model(folder)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def pad_left(rows):
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def generate(model, rows, max_new_tokens=12, **settings):
    """The ids that the model says after each row, up to the end of the answer."""
    ids, mask = pad_left(rows)
    said = model.generate(ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, **settings)
    said = said[:, ids.shape[1] :]
    end = model.config.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in said.tolist()]


@torch.no_grad()
def difference(model, case, tensors, columns):
    """The largest difference from the logits of the official code."""
    ids, wanted = tensors[f"{case}.input_ids"], tensors[f"{case}.logits_columns"]
    real = ids != PAD if case == "left_padded" else torch.ones_like(ids, dtype=torch.bool)
    logits = model(ids, attention_mask=real.long()).logits[..., columns]
    num = wanted.shape[1]
    return (logits[:, -num:] - wanted).abs()[real[:, -num:]].max().item()


@pytest.mark.parametrize("case", CASES)
def test_logits_and_hidden_states_are_those_of_the_official_code(case, reference, tensors, expected):
    assert difference(reference, case, tensors, expected["columns"]) <= 1e-4
    if f"{case}.hidden_states" in tensors:
        ids = tensors[f"{case}.input_ids"]
        real = ids != PAD if case == "left_padded" else torch.ones_like(ids, dtype=torch.bool)
        states = reference(ids, attention_mask=real.long(), output_hidden_states=True).hidden_states
        wanted = tensors[f"{case}.hidden_states"]
        assert (torch.stack(states) - wanted).abs()[:, real].max() <= 1e-3


@pytest.mark.parametrize("case", ["answer0", "answer1", "answer2", "training_batch"])
def test_losses_are_those_of_the_official_code(case, reference, tensors, expected):
    loss = reference(tensors[f"{case}.input_ids"], labels=tensors[f"{case}.labels"]).loss
    assert loss.item() == pytest.approx(expected["cases"][case]["loss"], abs=1e-4)


@pytest.mark.parametrize("case", CASES[:-2])
def test_positions_are_those_of_the_official_code(case, reference, tensors):
    ids = tensors[f"{case}.input_ids"]
    mask = (ids != PAD).long() if case == "left_padded" else None
    positions = chatglm1.positions_of(ids, mask, reference.config)
    assert torch.equal(positions, tensors[f"{case}.position_ids"].long())


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("case", ["prompt0", "prompt1", "prompt2", "prompt3", "batch"])
def test_greedy_answers_are_those_of_the_official_code(case, use_cache, reference, expected):
    rows = expected["greedy"][case]
    length = max(len(row["said"]) for row in rows)
    assert generate(reference, [row["prompt"] for row in rows], length, use_cache=use_cache) == [
        row["said"] for row in rows
    ]


@torch.no_grad()
def test_logits_and_cache_of_single_steps_are_those_of_the_official_code(reference, tensors, expected):
    ids, num = tensors["cached.input_ids"], expected["cases"]["cached"]["prefill"]
    positions = chatglm1.positions_of(ids, None, reference.config)
    outputs = reference(ids[:, :num], use_cache=True)
    steps = [outputs.logits[:, -1]]
    for i in range(num, ids.shape[1]):
        cache = {chatglm1.CACHE: getattr(outputs, chatglm1.CACHE)}
        outputs = reference(ids[:, i : i + 1], position_ids=positions[..., i : i + 1], use_cache=True, **cache)
        steps.append(outputs.logits[:, -1])
    columns = expected["columns"]
    assert (torch.cat(steps)[:, columns] - tensors["cached.step_logits_columns"]).abs().max() <= 1e-4
    layers = getattr(outputs, chatglm1.CACHE).layers
    for states, name in ((layers[0].keys, "key_layer0"), (layers[27].values, "value_layer27")):
        wanted = tensors[f"cached.{name}"].permute(1, 2, 0, 3)
        assert (states[:, :, : wanted.shape[2]] - wanted).abs().max() <= 1e-3


@torch.no_grad()
def test_the_whole_vocabulary_has_the_logits_of_the_official_code(reference, tensors):
    for case in ("prompt0", "answer0", "long_answer"):
        logits = reference(tensors[f"{case}.input_ids"]).logits
        if f"{case}.logsumexp" in tensors:
            wanted = tensors[f"{case}.logsumexp"]
            assert (logits.logsumexp(-1)[:, -wanted.shape[1] :] - wanted).abs().max() <= 1e-4
    last = reference(tensors["prompt0.input_ids"]).logits[0, -1]
    assert (last - tensors["prompt0.full_last_logits"].flatten()).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["plain", "projected"])
def test_prefixes_of_p_tuning_are_those_of_the_official_code(kind, folder, tensors, expected):
    model = reference_model(folder, pre_seq_len=8, prefix_projection=kind == "projected")
    assert difference(model, f"ptuning_{kind}", tensors, expected["columns"]) <= 1e-4


def all_queries_then_all_keys(fused, num_heads):
    return tuple(part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in fused.chunk(3, -1))


def causal(position_ids, attention_mask):
    length = position_ids.shape[-1]
    return torch.ones(length, length).tril().bool()[None, None]


MUTANTS = {
    "the order of q, k and v": lambda patch: patch.setattr(chatglm1, "split_heads", all_queries_then_all_keys),
    "a causal context": lambda patch: patch.setattr(chatglm1, "visible_keys", causal),
    "an exact GELU": lambda patch: patch.setattr(
        nn.functional, "gelu", lambda x, approximate: x * torch.special.ndtr(x)
    ),
    "exact frequencies": lambda patch: patch.setattr(
        chatglm1, "frequencies", lambda width: [10000 ** (-2 * i / (width // 2)) for i in range(width // 4)]
    ),
    "one position": lambda patch: patch.setattr(
        chatglm1, "positions_of", lambda ids, *_: torch.arange(ids.shape[1]).expand(len(ids), 2, -1)
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_defect_of_the_architecture_changes_the_logits(mutant, reference, tensors, expected, monkeypatch):
    MUTANTS[mutant](monkeypatch)
    case = "long" if mutant == "exact frequencies" else "answer0"
    assert difference(reference, case, tensors, expected["columns"]) > 1e-4


def test_another_epsilon_residual_or_a_tied_head_changes_the_logits(folder, tensors, expected):
    def epsilon(model):
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6

    def residual(model):
        for layer in model.transformer.layers:
            layer.alpha = 1.0

    def tied(model):
        model.lm_head.weight = model.transformer.word_embeddings.weight

    for mutate in (epsilon, residual, tied):
        model = reference_model(folder)
        mutate(model)
        assert difference(model, "prompt2", tensors, expected["columns"]) > 1e-4, mutate


@pytest.mark.parametrize("prefix", [None, 3])
def test_generation_is_the_same_with_and_without_cache_in_a_batch_and_alone(prefix):
    model = tiny_model(pre_seq_len=prefix)
    batched = generate(model, PROMPTS)
    assert batched == generate(model, PROMPTS, use_cache=False)
    assert batched == [generate(model, [row])[0] for row in PROMPTS]
    assert len({tuple(said) for said in batched}) > 1


def test_several_tokens_can_follow_cached_ones(model):
    ids = torch.tensor([[5, 6, 7, GMASK, SOP, 8, 9, 10]])
    positions = chatglm1.positions_of(ids, None, model.config)
    whole = model(ids).logits
    start = model(ids[:, :5], use_cache=True)
    rest = model(ids[:, 5:], position_ids=positions[..., 5:], cache=start[chatglm1.CACHE])
    assert torch.allclose(rest.logits, whole[:, 5:], atol=1e-5)


def test_positions_count_the_context_then_the_answer(model):
    ids, mask = pad_left([[7, MASK, 9, GMASK, SOP, 10, 11], [7, 8, MASK, 9, SOP]])
    one, two = chatglm1.positions_of(ids, mask, model.config).unbind(1)
    assert one.tolist() == [[0, 1, 2, 3, 3, 3, 3], [0, 0, 0, 1, 2, 3, 2]]
    assert two.tolist() == [[0, 0, 0, 0, 1, 2, 3], [0, 0, 0, 0, 0, 0, 1]]


def test_a_mask_token_in_the_answer_changes_no_position(model):
    positions = chatglm1.positions_of(torch.tensor([[7, MASK, SOP, GMASK, SOP]]), None, model.config)
    assert positions.tolist() == [[[0, 1, 1, 1, 1], [0, 0, 1, 2, 3]]]


def test_documents_in_one_row_are_computed_as_each_alone(model):
    documents = [[5, 6, 7, GMASK, SOP, 8, 9, EOP], [GMASK, SOP, 10, 11, EOP], [12, GMASK, SOP, EOP]]
    alone = [torch.tensor([document]) for document in documents]
    positions = torch.cat([chatglm1.positions_of(ids, None, model.config) for ids in alone], -1)
    packed = model(torch.cat(alone, 1), position_ids=positions).logits
    assert torch.allclose(packed, torch.cat([model(ids).logits for ids in alone], 1), atol=1e-5)


@pytest.mark.parametrize("row", [[5, 6, SOP, 7], [5, GMASK, 6], [SOP, GMASK, 7]])
def test_a_row_without_mask_token_and_sop_is_refused(row, model):
    with pytest.raises(ValueError, match=r"row 1: a sequence of ChatGLM-6B needs \[gMASK\] or \[MASK\], and <sop>"):
        model(torch.tensor([[5, GMASK, SOP, 7][: len(row)], row]))


def test_positions_after_cached_ids_must_be_given(model):
    cached = model(torch.tensor([[5, GMASK, SOP]]), use_cache=True)[chatglm1.CACHE]
    with pytest.raises(ValueError, match="give `position_ids`: positions after cached ids do not follow from the ids"):
        model(torch.tensor([[8]]), cache=cached)


def test_another_cache_is_refused(model):
    with pytest.raises(ValueError, match="ChatGLM-6B needs a DynamicCache, not a StaticCache"):
        model(torch.tensor([[5, GMASK, SOP]]), cache=StaticCache(model.config, max_cache_len=8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tie_word_embeddings": True}, "tie_word_embeddings must be false: ChatGLM-6B stores both embeddings"),
        ({"attn_implementation": "eager"}, "ChatGLM-6B has the attention sdpa, not eager"),
    ],
)
def test_settings_that_the_model_does_not_have_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ChatGLM1ForCausalLM(ChatGLM1Config(**TINY, **settings))


def test_gradient_checkpointing_changes_no_gradient(model):
    ids = torch.tensor([[5, 6, GMASK, SOP, 8, 9, EOP]])
    labels = torch.where(torch.arange(7) > 3, ids, -100)
    gradients = []
    for checkpointing in (False, True):
        trained = tiny_model().train()
        if checkpointing:
            trained.gradient_checkpointing_enable({"use_reentrant": False})
        trained(ids, labels=labels).loss.backward()
        gradients.append({name: p.grad for name, p in trained.named_parameters()})
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_computes_close_to_fp32(dtype, model):
    ids = torch.tensor([[5, 6, GMASK, SOP, 8, 9, EOP]])
    with torch.autocast("cpu", torch.bfloat16):
        logits = copy.deepcopy(model).to(dtype)(ids).logits
    assert logits.dtype == torch.bfloat16
    assert (logits - model(ids).logits).abs().mean() < 0.03 * model(ids).logits.std()


def test_a_saved_model_is_loaded_by_the_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[5, GMASK, SOP, 8]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert AutoConfig.from_pretrained(tmp_path).max_position_embeddings == TINY["max_position_embeddings"]
