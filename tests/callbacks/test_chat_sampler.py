import html
import json
import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from tensorboard.plugin_util import markdown_to_safe_html

from callbacks.chat_sampler import ChatSampler, as_markdown
from callbacks.throughput import Throughput
from glmja.conversation.replies import Reply, generate
from glmja.evaluation.questions import QUESTIONS
from glmja.modeling.sampling import Sampling
from glmja.modeling.training_clock import TrainingClock
from glmja.text.scripts import language_of
from tests.support.strategies import TEXT_WITH_CONTROL_NAMES
from tests.support.tiny_run import TinyRun, events, loader, make_batch, make_trainer, scalars

BATCHES = [make_batch(i) for i in range(40)]
TWO = ["こんにちは", "你好"]


def sampler(**options):
    return ChatSampler(**{"prompts": TWO, "max_new_tokens": 4, "every_n_steps": 2} | options)


def fit(zero_dir, folder, *callbacks, ckpt_path=None, **options):
    torch.manual_seed(0)
    module = TinyRun(zero_dir)
    trainer = make_trainer(folder, list(callbacks), **options)
    trainer.fit(module, loader(BATCHES), ckpt_path=ckpt_path, weights_only=True)
    return module


def chats(folder):
    return [json.loads(line) for line in (folder / "chats.jsonl").read_text(encoding="utf-8").splitlines()]


def steps(folder):
    return [chat["step"] for chat in chats(folder)[:: len(TWO)]]


@pytest.mark.parametrize(
    ("every", "max_steps", "expected"), [(2, 4, [0, 2, 4]), (3, 5, [0, 3, 5]), (9, 2, [0, 2]), (1, 2, [0, 1, 2])]
)
def test_it_samples_before_training_every_n_optimizer_steps_and_at_the_end(
    zero_dir, tmp_path, every, max_steps, expected
):
    fit(zero_dir, tmp_path, sampler(every_n_steps=every), max_steps=max_steps, accumulate_grad_batches=3)
    assert steps(tmp_path) == expected
    assert list(scalars(tmp_path, "chat/repetition")) == expected


def test_answers_are_those_of_the_model_at_that_step(zero_dir, tmp_path):
    module = fit(zero_dir, tmp_path, sampler(seed=7, system="短く。"), max_steps=2)
    for kind, do_sample in (("greedy", False), ("sampled", True)):
        prompts = [[{"role": "system", "content": "短く。"}, {"role": "user", "content": prompt}] for prompt in TWO]
        now = generate(module.model, module.tokenizer, prompts, Sampling(4, do_sample, seed=7))
        assert [chat[kind] for chat in chats(tmp_path)[-2:]] == [
            f"{reply.metadata}\n{reply.text}" if reply.metadata else reply.text for reply in now
        ]
    assert [(chat["prompt"], chat["lang"]) for chat in chats(tmp_path)[-2:]] == [("こんにちは", "ja"), ("你好", "zh")]
    assert chats(tmp_path)[0]["greedy"] != chats(tmp_path)[-2]["greedy"]


def test_sampling_does_not_change_training(zero_dir, tmp_path):
    watched = fit(zero_dir, tmp_path / "a", sampler(every_n_steps=1))
    alone = fit(zero_dir, tmp_path / "b")
    for (name, one), other in zip(watched.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_answers_and_metrics_are_logged_to_tensorboard(zero_dir, tmp_path):
    fit(zero_dir, tmp_path, sampler(), max_steps=2)
    log = events(tmp_path)
    tags = [f"chat/{number:02} {prompt}/text_summary" for number, prompt in enumerate(TWO, start=1)]
    assert [tag for tag in log.Tags()["tensors"] if tag.startswith("chat/")] == tags
    shown = log.Tensors(tags[0])
    assert [event.step for event in shown] == [0, 2]
    text = shown[-1].tensor_proto.string_val[0].decode()
    last = chats(tmp_path)[-2]
    assert text == f"**greedy** {as_markdown(last['greedy'])}\n\n**sampled** {as_markdown(last['sampled'])}"
    assert scalars(tmp_path, "chat/ja_simplified_share")[2] == pytest.approx(last["simplified_share"])
    repetition = sum(chat["repetition"] for chat in chats(tmp_path)[-2:]) / 2
    assert scalars(tmp_path, "chat/repetition")[2] == pytest.approx(repetition)


def test_without_japanese_prompts_the_simplified_share_is_not_logged(zero_dir, tmp_path):
    fit(zero_dir, tmp_path, sampler(prompts=["你好"]), max_steps=1)
    assert "chat/ja_simplified_share" not in events(tmp_path).Tags()["scalars"]


def test_a_resumed_run_samples_no_step_twice_and_removes_answers_after_the_checkpoint(zero_dir, tmp_path):
    keep = ModelCheckpoint(tmp_path / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    fit(zero_dir, tmp_path, sampler(every_n_steps=1), keep, max_steps=5, enable_checkpointing=True)
    assert steps(tmp_path) == [0, 1, 2, 3, 4, 5]
    before = chats(tmp_path)
    with (tmp_path / "chats.jsonl").open("a") as file:
        file.write('{"step": 6, "pro')  # killed while writing
    last = tmp_path / "checkpoints" / "step=4.ckpt"
    fit(zero_dir, tmp_path, sampler(every_n_steps=1), max_steps=5, ckpt_path=last)
    assert steps(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert chats(tmp_path)[:10] == before[:10]


def test_a_new_run_starts_a_new_file(zero_dir, tmp_path):
    for _ in range(2):
        fit(zero_dir, tmp_path, sampler(), max_steps=1)
    assert steps(tmp_path) == [0, 1]


def test_the_time_of_sampling_is_not_training(zero_dir, tmp_path, monkeypatch):
    stops = []
    monkeypatch.setattr(TrainingClock, "stop", lambda clock: stops.append(1))
    fit(zero_dir, tmp_path, Throughput(), sampler(every_n_steps=1), max_steps=2, log_every_n_steps=0)
    assert len(stops) == 3


def test_the_last_answers_are_printed_without_control_characters(zero_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Reply, "whole", "[bold]\x1b[31mred")
    fit(zero_dir, tmp_path, sampler(), max_steps=1)
    printed = capsys.readouterr().out
    assert "chats at step 1" in printed
    assert "[bold]\ufffd[31mred" in printed
    assert "\x1b[31mred" not in printed


def test_other_processes_generate_and_write_nothing(zero_dir, tmp_path, monkeypatch):
    import callbacks.chat_sampler as module

    monkeypatch.setattr(module, "generate", lambda *_, **__: pytest.fail("generated"))
    trainer = SimpleNamespace(global_step=0, is_global_zero=False, default_root_dir=tmp_path)
    callback = sampler()
    callback.on_train_start(trainer, None)
    callback.on_train_end(trainer, None)
    assert callback.state_dict() == {"last_step": 0}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_it_samples_in_the_precision_of_training(zero_dir, tmp_path, precision):
    fit(zero_dir, tmp_path, sampler(), max_steps=1, precision=precision)
    assert steps(tmp_path) == [0, 1]


@given(TEXT_WITH_CONTROL_NAMES)
def test_no_answer_contains_markup(text):
    shown = markdown_to_safe_html(as_markdown(text))
    inner = re.sub(r"<br\s*/?>|</?p>", "\n", shown)
    assert "<" not in inner

    def words(text):
        return "".join(c if c.isprintable() else " " for c in text.replace("\ufffd", " ")).split()

    assert words(html.unescape(inner)) == words(text)


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "[x](javascript:a)", "# Title\n===\n- a\n1. b", "    code `x` **b** _i_",
             "![x](http://a/b.png)", "http://a.b", "&lt;b&gt;", "a | b\n--- | ---\n1 | 2"]
)  # fmt: skip
def test_markup_is_shown_as_it_is_written(text):
    shown = markdown_to_safe_html(as_markdown(text))
    assert set(re.findall(r"<\W*(\w+)", shown)) <= {"p", "br"}
    assert html.unescape(re.sub(r"<.*?>", "", shown)).split() == text.split() or "\n" in text


def test_characters_of_japanese_and_emoji_are_kept():
    assert as_markdown("\u3000段落\n👩\u200d👧\tか\u202eな") == "\u3000段落<br>👩\u200d👧 か\ufffdな"


def test_a_long_answer_is_cut():
    assert as_markdown("あ" * 5000) == "あ" * 2000 + "…"


def test_the_language_of_a_prompt_is_recognized():
    assert [language_of(prompt) for prompt in QUESTIONS] == ["zh"] * 2 + ["ja"] * 6
    assert language_of("Who are you?") == "other"


@pytest.mark.parametrize(
    ("strategy", "shown"),
    [
        (DeepSpeedStrategy(stage=3), "ZeRO stage 3"),
        (FSDPStrategy(), "FSDPStrategy"),
        (ModelParallelStrategy(), "ModelParallelStrategy"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sharded_weights_are_refused(strategy, shown):
    with pytest.raises(ValueError, match=f"must hold all weights; under {shown} it does not: remove the callback"):
        ChatSampler().setup(SimpleNamespace(strategy=strategy), None, "fit")


@pytest.mark.parametrize("strategy", [DeepSpeedStrategy(stage=2), DeepSpeedStrategy(config={}), DDPStrategy()])
def test_strategies_with_complete_weights_are_accepted(strategy):
    ChatSampler().setup(SimpleNamespace(strategy=strategy), None, "fit")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"every_n_steps": 0}, r"every_n_steps \(0\) must be at least 1"),
        ({"prompts": []}, "prompts is empty"),
        ({"max_new_tokens": 0}, r"`max_new_tokens` \(0\) must be at least 1"),
        ({"temperature": -1.0}, r"`temperature` \(-1.0\) must be above 0"),
        ({"top_p": 0.0}, r"`top_p` \(0.0\) must be above 0"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ChatSampler(**values)
