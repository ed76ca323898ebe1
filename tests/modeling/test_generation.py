import random

import numpy as np
import pytest
import torch

from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.generation import generate_ids
from glmja.modeling.loading import load_model
from glmja.modeling.sampling import Sampling
from glmja.tokenization.tokenizer import GLMTokenizer

TEXTS = ["こんにちは", "你是谁", "Tell me about the sea, please; I have time.", "あ", "魚の種類はどっち？"]


@pytest.fixture(scope="module")
def model(zero_dir):
    return load_model(zero_dir, torch.float32)


@pytest.fixture
def adapted(zero_dir):
    """A model during training, with dropout, gradient checkpointing and adapters that change its outputs."""
    glm = load_model(zero_dir, torch.float32)
    glm.activation_checkpointing_enable({"use_reentrant": False})
    model = apply_tuning(glm, "lora", "full", Lora(rank=4, dropout=0.5), []).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def to_row(text, tokenizer):
    """The ids of a question in ChatGLM3's format."""
    user, assistant = (tokenizer.role_id(role) for role in ("user", "assistant"))
    return [*tokenizer.prefix_ids, user, *tokenizer.encode("\n"), *tokenizer.encode(text), assistant]


def generate(model, tokenizer, texts, batch_size=8, on_ids=None, **sampling):
    rows = [to_row(text, tokenizer) for text in texts]
    return generate_ids(model, tokenizer, rows, Sampling(**sampling), batch_size=batch_size, on_ids=on_ids)


def greedy_by_hand(model, tokenizer, text, num_tokens):
    """The most likely tokens, each from a forward pass over everything before it."""
    ids = to_row(text, tokenizer)
    start = len(ids)
    for _ in range(num_tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1, : len(tokenizer)].argmax()))
        if ids[-1] in tokenizer.stop_ids:
            return ids[start:-1]
    return ids[start:]


@torch.no_grad()
def test_greedy_decoding_takes_the_most_likely_token_each_time(model, tokenizer):
    found = generate(model, tokenizer, TEXTS, max_new_tokens=12)
    assert [one.ids for one in found] == [greedy_by_hand(model, tokenizer, text, 12) for text in TEXTS]


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_continuation_does_not_depend_on_the_other_rows_of_the_batch(model, tokenizer, do_sample):
    together, in_pairs, alone = (
        generate(model, tokenizer, TEXTS, max_new_tokens=16, do_sample=do_sample, seed=3, batch_size=batch_size)
        for batch_size in (8, 2, 1)
    )
    assert together == in_pairs == alone


def test_the_seed_determines_the_samples_and_each_prompt_has_its_own(model, tokenizer):
    def sample(seed):
        found = generate(model, tokenizer, TEXTS[:1] * 3, max_new_tokens=8, do_sample=True, seed=seed, top_p=1.0)
        return [tuple(one.ids) for one in found]

    assert sample(1) == sample(1)
    assert sample(1) != sample(10)
    assert sample(None) != sample(None)
    assert len(set(sample(1))) == 3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.5)])
def test_samples_follow_the_distribution(model, tokenizer, temperature, top_p):
    with torch.no_grad():
        logits = model(torch.tensor([to_row(TEXTS[0], tokenizer)])).logits[0, -1, : len(tokenizer)]
    expected = torch.softmax(logits / temperature, -1)
    order = expected.argsort(descending=True)
    left_out = order[expected[order].cumsum(0) - expected[order] >= top_p]
    expected[left_out] = 0
    expected /= expected.sum()
    many = 1000
    found = generate(
        model, tokenizer, TEXTS[:1] * many, max_new_tokens=1, do_sample=True, seed=0, batch_size=500,
        temperature=temperature, top_p=top_p,
    )  # fmt: skip
    counts = torch.zeros(len(tokenizer))
    for one in found:
        counts[one.ids[0] if one.ids else tokenizer.eos_id] += 1
    assert counts[left_out].sum() == 0
    likeliest = expected.topk(5)
    deviation = (likeliest.values * (1 - likeliest.values) / many).sqrt()
    assert ((counts[likeliest.indices] / many - likeliest.values).abs() < 5 * deviation).all()


def test_sampling_at_a_temperature_near_zero_is_greedy(model, tokenizer):
    greedy = generate(model, tokenizer, TEXTS, max_new_tokens=8)
    assert generate(model, tokenizer, TEXTS, max_new_tokens=8, do_sample=True, temperature=1e-5) == greedy


def test_a_continuation_ends_before_a_stop_token(model, tokenizer, monkeypatch):
    ids = generate(model, tokenizer, TEXTS[:1], max_new_tokens=12)[0].ids
    monkeypatch.setattr(GLMTokenizer, "stop_ids", [ids[5], tokenizer.eos_id])
    first, *_ = found = generate(model, tokenizer, TEXTS, max_new_tokens=12)
    assert first.stopped
    assert first.ids == ids[: ids.index(ids[5])]
    assert not any({ids[5], tokenizer.eos_id} & set(one.ids) for one in found)


@pytest.mark.parametrize("do_sample", [False, True])
def test_on_ids_receives_each_id_including_the_stop_token(model, tokenizer, monkeypatch, do_sample):
    def record():
        received = []
        options = {"max_new_tokens": 12, "do_sample": do_sample, "seed": 3}
        one = generate(model, tokenizer, TEXTS[:1], on_ids=received.append, **options)[0]
        assert all(len(ids) == 1 for ids in received)
        assert one == generate(model, tokenizer, TEXTS[:1], **options)[0]
        return [token_id for ids in received for token_id in ids], one

    received, one = record()
    assert not one.stopped
    assert received == one.ids
    monkeypatch.setattr(GLMTokenizer, "stop_ids", [stop := received[5], tokenizer.eos_id])
    received, one = record()
    assert one.stopped
    assert received == [*one.ids, stop]


def test_an_interrupted_generation_restores_the_mode_of_the_model(adapted, tokenizer):
    def interrupt(ids):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(adapted, tokenizer, TEXTS[:1], max_new_tokens=3, on_ids=interrupt)
    assert adapted.training


def test_a_continuation_of_max_new_tokens_did_not_stop(model, tokenizer):
    one = generate(model, tokenizer, TEXTS[:1], max_new_tokens=3)[0]
    assert not one.stopped
    assert len(one.ids) == 3


@pytest.mark.parametrize("do_sample", [False, True])
def test_no_global_random_state_changes(model, tokenizer, do_sample):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    generate(model, tokenizer, TEXTS[:2], max_new_tokens=4, do_sample=do_sample, seed=1)
    assert states() == before


def test_a_model_in_training_mode_generates_as_in_eval_mode_and_its_modes_are_restored(adapted, tokenizer):
    modes = [module.training for module in adapted.modules()]
    found = generate(adapted, tokenizer, TEXTS[:2], max_new_tokens=8)
    assert [module.training for module in adapted.modules()] == modes
    with torch.no_grad():
        adapted.eval()
        assert [r.ids for r in found] == [greedy_by_hand(adapted, tokenizer, text, 8) for text in TEXTS[:2]]
        with adapted.disable_adapter():
            assert [r.ids for r in found] != [greedy_by_hand(adapted, tokenizer, text, 8) for text in TEXTS[:2]]


def test_a_token_costs_one_forward_pass_over_itself(adapted, tokenizer):
    widths = []
    layer = adapted.get_base_model().model.layers[0]
    handle = layer.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    generate(adapted, tokenizer, TEXTS[:2], max_new_tokens=4)
    handle.remove()
    assert widths == [max(len(to_row(text, tokenizer)) for text in TEXTS[:2]), 1, 1, 1]


@torch.no_grad()
def test_a_layer_compiled_for_training_is_not_compiled_again_for_each_length(adapted, tokenizer):
    compiled = []
    norm = adapted.get_base_model().model.norm
    norm.compile(backend=lambda graph, inputs: compiled.append(1) or graph.forward)
    found = generate(adapted, tokenizer, TEXTS[:2], max_new_tokens=4)
    assert not compiled
    norm(torch.ones(1, 64))
    assert compiled
    assert generate(adapted, tokenizer, TEXTS[:2], max_new_tokens=4) == found


def test_training_continues_inside_the_same_autocast(adapted, tokenizer):
    with torch.autocast("cpu", torch.bfloat16):
        assert generate(adapted, tokenizer, TEXTS[:1], max_new_tokens=3)[0].ids
        adapted(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


def test_the_mode_is_restored_after_an_error(adapted, tokenizer, monkeypatch):
    monkeypatch.setattr(type(adapted.get_base_model()), "generate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(adapted, tokenizer, TEXTS[:1], max_new_tokens=3)
    assert adapted.training


def test_ids_beyond_the_tokenizer_are_never_generated(model, tokenizer, monkeypatch):
    monkeypatch.setattr(GLMTokenizer, "__len__", lambda self: 300)
    found = generate(model, tokenizer, TEXTS, max_new_tokens=8)
    assert max(token_id for one in found for token_id in one.ids) < 300


def test_no_prompts_give_no_continuations(model, tokenizer):
    assert generate(model, tokenizer, [], max_new_tokens=3) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 3, "batch_size": 0}, r"`batch_size` \(0\) must be at least 1"),
        (
            {"max_new_tokens": 2040},
            r"prompt 0 has \d+ tokens; with `max_new_tokens` \(2040\) that exceeds the model's 2048 positions",
        ),
    ],
)
def test_bad_settings_are_rejected(model, tokenizer, values, message):
    with pytest.raises(ValueError, match=message):
        generate(model, tokenizer, TEXTS, **values)


@pytest.mark.gpu
def test_the_seed_determines_the_samples_on_a_gpu_and_its_random_state_is_unchanged(zero_dir, tokenizer):
    model, before = load_model(zero_dir, torch.bfloat16).cuda(), torch.cuda.get_rng_state()
    first, second = (generate(model, tokenizer, TEXTS, max_new_tokens=8, do_sample=True, seed=1) for _ in range(2))
    assert first == second
    assert torch.equal(torch.cuda.get_rng_state(), before)
