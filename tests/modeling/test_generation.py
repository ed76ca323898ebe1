import random

import numpy as np
import pytest
import torch
from hypothesis import given

from glmja.conversation.rendering import render, render_prompt
from glmja.conversation.replies import generate, split_metadata
from glmja.modeling.adapters import Lora, apply_tuning
from glmja.modeling.loading import load_model
from glmja.tokenization.tokenizer import GLMTokenizer
from tests.support.strategies import TEXT

TEXTS = ["こんにちは", "你是谁", "Tell me about the sea, please; I have time.", "あ", "魚の種類はどっち？"]
PROMPTS = [[{"role": "user", "content": text}] for text in TEXTS]


@pytest.fixture(scope="module")
def model(zero_dir):
    return load_model(zero_dir, torch.float32)


@pytest.fixture
def adapted(zero_dir):
    """A model in the middle of training: dropout, gradient checkpointing, adapters that do something."""
    glm = load_model(zero_dir, torch.float32)
    glm.activation_checkpointing_enable({"use_reentrant": False})
    model = apply_tuning(glm, "lora", "full", Lora(rank=4, dropout=0.5), []).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def greedy_by_hand(model, tokenizer, prompt, num_tokens):
    """The likeliest tokens, each from a forward pass over everything before it."""
    ids = render_prompt(prompt, tokenizer)
    start = len(ids)
    for _ in range(num_tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1, : len(tokenizer)].argmax()))
        if ids[-1] in tokenizer.stop_ids:
            return ids[start:-1]
    return ids[start:]


@torch.no_grad()
def test_a_greedy_reply_is_the_likeliest_token_each_time(model, tokenizer):
    replies = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    assert [reply.ids for reply in replies] == [greedy_by_hand(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert [reply.num_prompt_tokens for reply in replies] == [len(render_prompt(p, tokenizer)) for p in PROMPTS]


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_reply_does_not_depend_on_the_batch_around_it(model, tokenizer, do_sample):
    together, in_pairs, alone = (
        generate(model, tokenizer, PROMPTS, max_new_tokens=16, do_sample=do_sample, seed=3, batch_size=batch_size)
        for batch_size in (8, 2, 1)
    )
    assert together == in_pairs == alone


def test_a_seed_decides_the_samples_and_each_prompt_has_its_own(model, tokenizer):
    def sample(seed):
        replies = generate(model, tokenizer, PROMPTS[:1] * 3, max_new_tokens=8, do_sample=True, seed=seed, top_p=1.0)
        return [reply.text for reply in replies]

    assert sample(1) == sample(1)
    assert sample(1) != sample(10)
    assert sample(None) != sample(None)
    assert len(set(sample(1))) == 3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.5)])
def test_samples_follow_the_distribution(model, tokenizer, temperature, top_p):
    with torch.no_grad():
        logits = model(torch.tensor([render_prompt(PROMPTS[0], tokenizer)])).logits[0, -1, : len(tokenizer)]
    expected = torch.softmax(logits / temperature, -1)
    order = expected.argsort(descending=True)
    left_out = order[expected[order].cumsum(0) - expected[order] >= top_p]
    expected[left_out] = 0
    expected /= expected.sum()
    many = 1000
    replies = generate(
        model, tokenizer, PROMPTS[:1] * many, max_new_tokens=1, do_sample=True, seed=0, batch_size=500,
        temperature=temperature, top_p=top_p,
    )  # fmt: skip
    counts = torch.zeros(len(tokenizer))
    for reply in replies:
        counts[reply.ids[0] if reply.ids else tokenizer.eos_id] += 1
    assert counts[left_out].sum() == 0
    likeliest = expected.topk(5)
    deviation = (likeliest.values * (1 - likeliest.values) / many).sqrt()
    assert ((counts[likeliest.indices] / many - likeliest.values).abs() < 5 * deviation).all()


def test_a_nearly_frozen_sample_is_the_greedy_reply(model, tokenizer):
    greedy = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=8, do_sample=True, temperature=1e-5) == greedy


def test_a_reply_ends_before_a_stop_token(model, tokenizer, monkeypatch):
    ids = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=12)[0].ids
    monkeypatch.setattr(GLMTokenizer, "stop_ids", [ids[5], tokenizer.eos_id])
    first, *_ = replies = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    assert first.stopped
    assert first.ids == ids[: ids.index(ids[5])]
    assert not any({ids[5], tokenizer.eos_id} & set(reply.ids) for reply in replies)


@pytest.mark.parametrize("do_sample", [False, True])
def test_each_id_is_heard_as_it_is_said_and_so_is_the_one_that_stops(model, tokenizer, monkeypatch, do_sample):
    def listen():
        heard = []
        options = {"max_new_tokens": 12, "do_sample": do_sample, "seed": 3}
        reply = generate(model, tokenizer, PROMPTS[:1], on_ids=heard.append, **options)[0]
        assert all(len(ids) == 1 for ids in heard)
        assert reply == generate(model, tokenizer, PROMPTS[:1], **options)[0]
        return [token_id for ids in heard for token_id in ids], reply

    heard, reply = listen()
    assert not reply.stopped
    assert heard == reply.ids
    monkeypatch.setattr(GLMTokenizer, "stop_ids", [stop := heard[5], tokenizer.eos_id])
    heard, reply = listen()
    assert reply.stopped
    assert heard == [*reply.ids, stop]


def test_an_interrupted_reply_leaves_the_model_as_it_was(adapted, tokenizer):
    def interrupt(ids):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(adapted, tokenizer, PROMPTS[:1], max_new_tokens=3, on_ids=interrupt)
    assert adapted.training


def test_a_reply_that_runs_out_of_tokens_did_not_stop(model, tokenizer):
    reply = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=3)[0]
    assert not reply.stopped
    assert len(reply.ids) == 3


@pytest.mark.parametrize("do_sample", [False, True])
def test_no_global_random_state_changes(model, tokenizer, do_sample):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    generate(model, tokenizer, PROMPTS[:2], max_new_tokens=4, do_sample=do_sample, seed=1)
    assert states() == before


def test_a_model_in_training_answers_as_in_evaluation_and_trains_on(adapted, tokenizer):
    modes = [module.training for module in adapted.modules()]
    replies = generate(adapted, tokenizer, PROMPTS[:2], max_new_tokens=8)
    assert [module.training for module in adapted.modules()] == modes
    with torch.no_grad():
        adapted.eval()
        assert [r.ids for r in replies] == [greedy_by_hand(adapted, tokenizer, p, 8) for p in PROMPTS[:2]]
        with adapted.disable_adapter():
            assert [r.ids for r in replies] != [greedy_by_hand(adapted, tokenizer, p, 8) for p in PROMPTS[:2]]


def test_a_token_costs_one_forward_pass_over_itself(adapted, tokenizer):
    widths = []
    layer = adapted.get_base_model().model.layers[0]
    handle = layer.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    replies = generate(adapted, tokenizer, PROMPTS[:2], max_new_tokens=4)
    handle.remove()
    assert widths == [max(reply.num_prompt_tokens for reply in replies), 1, 1, 1]


@torch.no_grad()
def test_a_layer_compiled_for_training_is_not_compiled_again_for_each_length(adapted, tokenizer):
    compiled = []
    norm = adapted.get_base_model().model.norm
    norm.compile(backend=lambda graph, inputs: compiled.append(1) or graph.forward)
    replies = generate(adapted, tokenizer, PROMPTS[:2], max_new_tokens=4)
    assert not compiled
    norm(torch.ones(1, 64))
    assert compiled
    assert generate(adapted, tokenizer, PROMPTS[:2], max_new_tokens=4) == replies


def test_training_goes_on_inside_the_same_autocast(adapted, tokenizer):
    with torch.autocast("cpu", torch.bfloat16):
        assert generate(adapted, tokenizer, PROMPTS[:1], max_new_tokens=3)[0].ids
        adapted(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


def test_the_mode_is_put_back_after_a_failure(adapted, tokenizer, monkeypatch):
    monkeypatch.setattr(type(adapted.get_base_model()), "generate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate(adapted, tokenizer, PROMPTS[:1], max_new_tokens=3)
    assert adapted.training


def test_ids_beyond_the_tokenizer_are_never_said(model, tokenizer, monkeypatch):
    monkeypatch.setattr(GLMTokenizer, "__len__", lambda self: 300)
    replies = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert max(token_id for reply in replies for token_id in reply.ids) < 300


@given(TEXT)
def test_metadata_and_content_are_told_apart_as_they_were_rendered(tokenizer, content):
    content = tokenizer.decode(tokenizer.encode(content))  # what a tokenizer can write at all
    for metadata in ("", "get_weather"):
        ids, learnt = render([{"role": "assistant", "content": content, "metadata": metadata}], tokenizer)
        said = [token_id for token_id, is_learnt in zip(ids, learnt, strict=True) if is_learnt]
        assert split_metadata(said[:-1], tokenizer) == (metadata, content)


def test_without_a_line_feed_all_is_content(tokenizer):
    assert split_metadata(tokenizer.encode("はい、そうです"), tokenizer) == ("", "はい、そうです")
    assert split_metadata([], tokenizer) == ("", "")


def test_no_prompts_have_no_replies(model, tokenizer):
    assert generate(model, tokenizer, [], max_new_tokens=3) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\) must be at least 1"),
        ({"max_new_tokens": 3, "temperature": 0.0}, r"temperature \(0.0\) must be above 0"),
        ({"max_new_tokens": 3, "temperature": float("nan")}, r"temperature \(nan\) must be above 0"),
        ({"max_new_tokens": 3, "top_p": 0}, r"top_p \(0\) must be above 0 and at most 1"),
        ({"max_new_tokens": 3, "top_p": 1.1}, r"top_p \(1.1\) must be above 0 and at most 1"),
        ({"max_new_tokens": 3, "batch_size": 0}, r"batch_size \(0\) must be at least 1"),
        (
            {"max_new_tokens": 2040},
            r"prompt 0 has \d+ tokens; with max_new_tokens \(2040\) that is more than the model's 2048 positions",
        ),
    ],
)
def test_what_cannot_be_generated_is_refused(model, tokenizer, values, message):
    with pytest.raises(ValueError, match=message):
        generate(model, tokenizer, PROMPTS, **values)


def test_a_malformed_conversation_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="message 0 has the role 'robot'"):
        generate(model, tokenizer, [[{"role": "robot", "content": ""}]], max_new_tokens=3)


@pytest.mark.gpu
def test_a_seed_decides_the_samples_on_a_gpu_and_its_random_state_stays(zero_dir, tokenizer):
    model, before = load_model(zero_dir, torch.bfloat16).cuda(), torch.cuda.get_rng_state()
    first, second = (generate(model, tokenizer, PROMPTS, max_new_tokens=8, do_sample=True, seed=1) for _ in range(2))
    assert first == second
    assert torch.equal(torch.cuda.get_rng_state(), before)
