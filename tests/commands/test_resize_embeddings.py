import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from glmja import build_tokenizer, resize_embeddings
from glmja.families.recognition import load_tokenizer
from glmja.modeling.loading import load_model
from glmja.modeling.model_folder import ModelFolder
from glmja.tokenization.tokenizer import FILE_NAME, ROLE_TOKENS, GLMTokenizer
from glmja.tokenization.vocabulary import isolated_processor
from glmja.twin import build as twin
from glmja.verification import zero as verification
from glmja.verification.zero_outputs import Probe
from glmja.weights.chatglm_layout import EMBEDDING, HEAD
from glmja.weights.checkpoint import Checkpoint
from glmja.weights.row_mixtures import mix_rows
from tests.support.families import as_chatglm2, change_config, without_evidence

IDS = torch.tensor([[5, 300, 7, 900, 2, 41]])


def rows(folder, name):
    return Checkpoint.open(folder).as_glm().tensors[name].read_all()


def spelled(old, new):
    return isolated_processor(old.proto).encode([p.piece for p in list(new.proto.pieces)[len(old) :]])


def test_old_tokens_have_the_logits_of_the_base_bit_for_bit(base_dir, zero_dir, base_tokenizer):
    theirs, ours = (load_model(folder, torch.float32)(IDS).logits for folder in (base_dir, zero_dir))
    num_old = len(base_tokenizer)
    assert torch.equal(ours[..., :num_old], theirs[..., :num_old])


def test_a_new_logit_is_never_above_the_largest_old_one(base_dir, zero_dir, base_tokenizer):
    logits = load_model(zero_dir, torch.float64)(IDS).logits
    num_old = len(base_tokenizer)
    assert (logits[..., num_old:].amax(-1) < logits[..., :num_old].amax(-1)).all()


def test_new_rows_are_positional_by_default(base_dir, zero_dir, base_tokenizer, tokenizer):
    num_old, num_new = len(base_tokenizer), len(tokenizer)
    for name in (EMBEDDING, HEAD):
        old_ND, new_ND = rows(base_dir, name)[:num_old].double(), rows(zero_dir, name).double()
        mean_D = old_ND.mean(0)
        expected = []
        for ids in spelled(base_tokenizer, tokenizer):
            weights = torch.exp(2 * torch.arange(len(ids), dtype=torch.float64))
            positional_D, even_D = (weights / weights.sum()) @ old_ND[ids], old_ND[ids].mean(0)
            expected.append(positional_D if name == EMBEDDING else (even_D + mean_D) / 2)
        assert torch.equal(new_ND[:num_old], old_ND)
        torch.testing.assert_close(new_ND[num_old:num_new], torch.stack(expected), rtol=1e-3, atol=1e-6)
        assert len(new_ND) % 64 == 0
        torch.testing.assert_close(new_ND[num_new:], mean_D.repeat(len(new_ND) - num_new, 1), rtol=1e-3, atol=1e-6)


def test_a_new_row_is_the_mean_of_its_subtokens_on_request(
    base_dir, tokenizer_dir, tmp_path, base_tokenizer, tokenizer
):
    args = ["--base", str(base_dir), "--tokenizer", str(tokenizer_dir), "--init", "subtoken_mean"]
    report = resize_embeddings.main([*args, "--output", str(tmp_path / "out")])
    assert report["init"] == "subtoken_mean" and report["greedy_equal"]
    for name in (EMBEDDING, HEAD):
        old_ND = rows(base_dir, name).double()
        expected = torch.stack([old_ND[ids].mean(0).half() for ids in spelled(base_tokenizer, tokenizer)])
        new_ND = rows(tmp_path / "out", name)[len(base_tokenizer) : len(tokenizer)]
        torch.testing.assert_close(new_ND, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("init", ["mean", "random"])
def test_other_inits_do_what_they_are_called(base_dir, tokenizer_dir, base_tokenizer, tokenizer, tmp_path, init):
    args = ["--base", str(base_dir), "--tokenizer", str(tokenizer_dir), "--init", init, "--check_greedy", "false"]
    resize_embeddings.main([*args, "--output", str(tmp_path / "a")])
    resize_embeddings.main([*args, "--output", str(tmp_path / "b")])
    new_ND = rows(tmp_path / "a", HEAD)[len(base_tokenizer) : len(tokenizer)].float()
    assert torch.equal(new_ND, rows(tmp_path / "b", HEAD)[len(base_tokenizer) : len(tokenizer)].float())
    assert new_ND.std(0).max() == 0 if init == "mean" else abs(new_ND.std() - 0.02) < 0.001


def test_calibrated_head_rows_lie_between_the_first_subtoken_and_the_mean(
    base_dir, tokenizer_dir, base_tokenizer, tokenizer, tmp_path, capsys
):
    args = ["--base", str(base_dir), "--tokenizer", str(tokenizer_dir), "--init", "calibrated", "--device", "cpu"]
    texts = [f"{lang}={twin.text_file(lang)}" for lang in ("ja", "zh")]
    more = ["--calibration_tokens", "700", "--check_characters", "200", "--text", *texts]
    report = resize_embeddings.main([*args, *more, "--output", str(tmp_path / "out")])
    lines = [json.loads(line) for line in (tmp_path / "out" / "calibration.jsonl").read_text().splitlines()]
    assert [line["piece"] for line in lines] == [p.piece for p in list(tokenizer.proto.pieces)[len(base_tokenizer) :]]
    seen = [line for line in lines if line["occurrences"]]
    assert report["calibration"]["pieces_in_the_text"] == len(seen) > 20
    assert report["init"] == "calibrated" and report["greedy_equal"] and report["texts"]["zh"]["new_on_top"] == 0
    old_ND = rows(base_dir, HEAD)[: len(base_tokenizer)].double()
    shares = torch.tensor([line["mean_share"] for line in lines], dtype=torch.float64)[:, None]
    first_ND = old_ND[[ids[0] for ids in spelled(base_tokenizer, tokenizer)]]
    new = slice(len(base_tokenizer), len(tokenizer))
    expected_ND = (1 - shares) * first_ND + shares * old_ND.mean(0)
    torch.testing.assert_close(rows(tmp_path / "out", HEAD)[new].double(), expected_ND, rtol=1e-3, atol=1e-6)
    args = [*args[:4], "--output", str(tmp_path / "positional"), "--check_greedy", "false"]
    resize_embeddings.main(args)
    assert torch.equal(rows(tmp_path / "out", EMBEDDING), rows(tmp_path / "positional", EMBEDDING))
    assert "Reading 700 tokens with the base takes about 0:0" in capsys.readouterr().out
    assert "| calibration: tokens | 7" in (tmp_path / "out" / "README.md").read_text()


def test_the_text_of_the_check_is_not_calibrated_on(base_dir, tokenizer_dir, tmp_path, capsys, texts):
    (tmp_path / "ja.jsonl").write_text(json.dumps({"text": texts["ja"][0]}), encoding="utf-8")
    values = {"init": "calibrated", "text": f"ja={tmp_path}/ja.jsonl", "check_characters": 20}
    line = refused(capsys, base=base_dir, tokenizer=tokenizer_dir, output=tmp_path / "out", **values)
    assert "no new piece of the tokenizer occurs in the 0 tokens of --text after those of the check" in line
    assert not (tmp_path / "out").exists()


def test_greedy_replies_are_the_bases(base_dir, zero_dir, base_tokenizer):
    prompt = torch.tensor([[*base_tokenizer.prefix_ids, *base_tokenizer.encode("今天天气")]])
    padding = list(range(len(base_tokenizer), 2560))
    theirs = load_model(base_dir).generate(prompt, do_sample=False, max_new_tokens=24, suppress_tokens=padding)
    ours = load_model(zero_dir).generate(prompt, do_sample=False, max_new_tokens=24)
    assert torch.equal(ours, theirs)


def test_the_zero_model_loads_without_remote_code(zero_dir, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(zero_dir)
    fast = AutoTokenizer.from_pretrained(zero_dir)
    assert model.config.vocab_size >= len(fast) == len(tokenizer)
    assert GenerationConfig.from_pretrained(zero_dir).eos_token_id == tokenizer.stop_ids
    chat = fast.apply_chat_template(
        [{"role": "user", "content": "你好"}], add_generation_prompt=True, return_tensors="pt"
    )
    assert model.generate(**chat, max_new_tokens=3, do_sample=False).shape[1] > chat["input_ids"].shape[1]
    assert torch.equal(model(IDS).logits, load_model(zero_dir)(IDS).logits)


def test_the_card_and_the_report_tell_where_the_model_is_from(zero_dir, base_tokenizer, tokenizer):
    report = json.loads((zero_dir / "resize_report.json").read_text())
    assert report["base_tokenizer_sha256"] == base_tokenizer.fingerprint
    assert len(report["base_sha256"]) == 64 and report["base"] == "base"
    assert report["tokenizer_sha256"] == tokenizer.fingerprint
    assert report["old_rows_bit_equal"] and report["greedy_equal"]
    assert report["old_rows_kept"] + report["new_rows"] + report["padding_rows"] == report["rows_after"]
    card = (zero_dir / "README.md").read_text()
    assert tokenizer.fingerprint in card and "| policy | japanese |" in card
    copies = report["row_copies"]
    assert f"| new rows equal to another new row | input {copies['input']['shared']:,}, head " in card
    assert "| text | characters | base bits per char |" in card and "\n| zh | 1000 |" in card


def root(ids):
    """The shortest list of which `ids` is a repetition."""
    return next(ids[:n] for n in range(1, len(ids) + 1) if ids[:n] * (len(ids) // n) == ids)


def test_the_report_counts_copies_and_new_pieces_on_top_of_chinese_and_english(zero_dir, base_tokenizer, tokenizer):
    report = json.loads((zero_dir / "resize_report.json").read_text())
    assert report["row_copies"]["head"]["of_old_rows"] == 0
    # か and かか get the same rows where both are new: weights that grow by a constant factor do not tell them apart
    roots = [root(ids) for ids in spelled(base_tokenizer, tokenizer)]
    assert report["row_copies"]["input"]["of_old_rows"] == sum(len(ids) == 1 for ids in roots)
    assert report["row_copies"]["both"]["shared"] == sum(roots.count(ids) > 1 for ids in roots)
    assert report["texts"].keys() == {"zh", "en"}
    for text in report["texts"].values():
        assert text["characters"] == 1000 and text["positions"] > 100
        assert text["new_on_top"] == 0 and text["smallest_lead"] > 0


def test_both_models_read_the_texts_of_the_user(base_dir, tokenizer_dir, tmp_path, capsys):
    args = ["--base", str(base_dir), "--tokenizer", str(tokenizer_dir), "--check_greedy", "false"]
    texts = [f"{lang}={twin.text_file(lang)}" for lang in ("ja", "en")]
    more = ["--check_characters", "300", "--device", "cpu", "--text", *texts]
    report = resize_embeddings.main([*args, *more, "--output", str(tmp_path / "out")])
    assert report["texts"].keys() == {"ja", "en"} and "greedy_equal" not in report
    assert all(text["characters"] == 300 for text in report["texts"].values())
    shown = capsys.readouterr().out
    assert f"{report['texts']['ja']['zero_bits_per_char']:.3f}" in shown and "new pieces on top" in shown


def test_no_model_is_loaded_where_nothing_is_asked(base_dir, tokenizer_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("glmja.modeling.loading.load_model", None)
    args = ["--base", str(base_dir), "--tokenizer", str(tokenizer_dir), "--output", str(tmp_path / "out")]
    assert resize_embeddings.main([*args, "--check_greedy", "false"])["texts"] == {}


def test_a_zero_model_can_be_the_base_of_the_next(zero_dir, tmp_path, tokenizer):
    corpus = str(twin.text_file("ja"))
    build_tokenizer.main(
        ["--base", str(zero_dir), "--corpus", corpus, "--num_new_pieces", "70", "--output", str(tmp_path / "t")]
    )
    report = resize_embeddings.main(
        ["--base", str(zero_dir), "--tokenizer", str(tmp_path / "t"), "--output", str(tmp_path / "next")]
    )
    assert report["old_rows_kept"] == len(tokenizer)
    assert report["new_rows"] == 70


def test_the_same_tokenizer_makes_a_conversion_and_a_warning(base_dir, base_tokenizer, tmp_path, capsys):
    report = resize_embeddings.main(
        ["--base", str(base_dir), "--tokenizer", str(base_dir), "--output", str(tmp_path / "out")]
    )
    assert report["new_rows"] == 0
    warning = f"WARN: {base_dir} has no ids that the base does not have; give that of build_tokenizer"
    assert warning in capsys.readouterr().out.splitlines()
    assert ModelFolder.open(tmp_path / "out").tokenizer.fingerprint == base_tokenizer.fingerprint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_written_in_the_requested_dtype(base_dir, tokenizer_dir, tmp_path, dtype):
    args = ["--base", str(base_dir), "--tokenizer", str(tokenizer_dir), "--output", str(tmp_path / "out")]
    resize_embeddings.main([*args, "--dtype", dtype])
    assert rows(tmp_path / "out", HEAD).dtype == getattr(torch, dtype)


def refused(capsys, **values):
    with pytest.raises(SystemExit) as stop:
        resize_embeddings.main([part for key, value in values.items() for part in (f"--{key}", str(value))])
    assert stop.value.code in (2, 3, 4, 5)  # which one: tests/system/test_exit_codes.py
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert line.startswith("python -m glmja.resize_embeddings: error: ")
    return line


def copy(folder, to):
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def with_bad_row(folder, value):
    tensors = load_file(folder / "model.safetensors")
    tensors["transformer.output_layer.weight"][37, 3] = value
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_base_with_nan_rows_is_refused(base_dir, tokenizer_dir, tmp_path, capsys, value):
    base = copy(base_dir, tmp_path / "base")
    with_bad_row(base, value)
    line = refused(capsys, base=base, tokenizer=tokenizer_dir, output=tmp_path / "out")
    assert "lm_head.weight of the base: row 37 holds NaN or infinity (1 such rows)" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base"]


def test_a_tokenizer_of_another_base_is_refused(base_dir, tmp_path, capsys, texts):
    twin.build_base(tmp_path / "other", texts["en"], vocab_size=900)
    line = refused(capsys, base=base_dir, tokenizer=tmp_path / "other", output=tmp_path / "out")
    assert "does not extend the base's" in line and "build it from this base" in line


def test_a_tokenizer_larger_than_its_weights_is_refused(base_dir, tokenizer_dir, tmp_path, capsys):
    base = copy(base_dir, tmp_path / "base")
    (base / FILE_NAME).write_bytes((tokenizer_dir / FILE_NAME).read_bytes())
    line = refused(capsys, base=base, tokenizer=tokenizer_dir, output=tmp_path / "out")
    assert "the tokenizer has 3109 ids but the model has 2560 rows" in line


def test_weights_with_the_tokenizer_of_another_model_are_refused(base_dir, zero_dir, tokenizer_dir, tmp_path, capsys):
    base = copy(zero_dir, tmp_path / "base")
    (base / FILE_NAME).write_bytes((base_dir / FILE_NAME).read_bytes())
    line = refused(capsys, base=base, tokenizer=tokenizer_dir, output=tmp_path / "out")
    assert "the weights were made for a tokenizer with the hash" in line


def test_a_base_that_overflows_in_the_requested_dtype_is_refused(base_dir, tokenizer_dir, tmp_path, capsys):
    base = copy(base_dir, tmp_path / "base")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(base / "model.safetensors").items()}
    tensors["transformer.output_layer.weight"][37, 3] = 1e6
    save_file(tensors, base / "model.safetensors")
    line = refused(capsys, base=base, tokenizer=tokenizer_dir, output=tmp_path / "out", dtype="float16")
    assert "lm_head.weight of the base: row 37 holds NaN or infinity in float16 (1 such rows)" in line


def test_a_base_with_an_end_of_turn_is_recognized_as_the_same_model(base_dir, tokenizer_dir, base_tokenizer, tmp_path):
    base = copy(base_dir, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    head = tensors["transformer.output_layer.weight"]
    head[base_tokenizer.role_id("user")] = head[base_tokenizer.encode("的")[-1]] * 50
    save_file(tensors, base / "model.safetensors")
    args = ["--base", str(base), "--tokenizer", str(tokenizer_dir), "--output", str(tmp_path / "out")]
    assert resize_embeddings.main(args)["greedy_equal"]
    prompt = torch.tensor([[*base_tokenizer.prefix_ids, *base_tokenizer.encode("今天天气")]])
    ids = load_model(tmp_path / "out").generate(prompt, max_new_tokens=30, eos_token_id=base_tokenizer.stop_ids)
    assert base_tokenizer.role_id("user") in ids[0, prompt.shape[1] :].tolist()


def test_a_base_in_32_bits_is_resized_to_the_last_bit(base_dir, tokenizer_dir, tmp_path):
    base = copy(base_dir, tmp_path / "base")
    torch.manual_seed(0)
    tensors = {
        name: t.float() + 1e-5 * torch.randn(t.shape) for name, t in load_file(base / "model.safetensors").items()
    }
    save_file(tensors, base / "model.safetensors")
    args = ["--base", str(base), "--tokenizer", str(tokenizer_dir), "--output", str(tmp_path / "out")]
    assert resize_embeddings.main(args)["largest_distance_from_convexity_in_ulp"] <= 0.5
    assert rows(tmp_path / "out", HEAD).dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base": "nowhere"}, "no such folder: nowhere"),
        ({"tokenizer": "nowhere"}, "no such folder: nowhere"),
        ({"max_shard_size": 0}, "--max_shard_size 0 must be at least 1"),
        ({"pad_to_multiple_of": 0}, "--pad_to_multiple_of 0 must be at least 1"),
        ({"init": "calibrated"}, "--init calibrated needs Japanese text: give --text ja=FILE"),
        ({"init": "calibrated", "text": f"zh={twin.text_file('zh')}"}, "needs Japanese text"),
        ({"calibration_tokens": 0}, "--calibration_tokens 0 must be at least 1"),
        ({"check_characters": 0}, "--check_characters 0 must be at least 1"),
        ({"text": "nowhere.jsonl"}, "--text 'nowhere.jsonl' must be LANG=FILE"),
        ({"text": "ja=nowhere.jsonl"}, "no such file: nowhere.jsonl"),
        ({"device": "cuda:99"}, "--device cuda:99: not on this machine"),
        ({"output": "tests"}, "--output tests exists and is not empty"),
    ],
)
def test_bad_input_is_one_line(base_dir, tokenizer_dir, tmp_path, capsys, values, message):
    line = refused(capsys, **{"base": base_dir, "tokenizer": tokenizer_dir, "output": tmp_path / "out"} | values)
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_base_without_tokenizer_is_refused(base_dir, tokenizer_dir, tmp_path, capsys):
    base = copy(base_dir, tmp_path / "base")
    (base / FILE_NAME).unlink()
    line = refused(capsys, base=base, tokenizer=tokenizer_dir, output=tmp_path / "out")
    assert f"no tokenizer.model in {base}" in line


def test_a_full_disk_leaves_nothing_behind(base_dir, tokenizer_dir, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("glmja.weights.checkpoint.write_safetensors", full)
    line = refused(capsys, base=base_dir, tokenizer=tokenizer_dir, output=tmp_path / "out")
    assert "No space left on device" in line
    assert list(tmp_path.iterdir()) == []


class TestVerification:
    """The checks at the end find what they look for."""

    @pytest.fixture
    def zero(self, zero_dir, tmp_path):
        return copy(zero_dir, tmp_path / "zero")

    def verify(self, base_dir, zero, base_tokenizer, tokenizer, greedy=False):
        base, mixtures = (
            ModelFolder.open(base_dir),
            mix_rows((EMBEDDING, HEAD), "positional", spelled(base_tokenizer, tokenizer)),
        )
        return verification.verify_zero(base, base.checkpoint, zero, mixtures, Probe(greedy, {}))

    def change(self, zero, name, row, value):
        tensors = load_file(zero / "model.safetensors")
        tensors[name][row] = value
        save_file(tensors, zero / "model.safetensors", {"format": "pt"})

    def test_an_old_row_that_changed(self, base_dir, zero, base_tokenizer, tokenizer):
        self.change(zero, EMBEDDING, 11, 0.5)
        with pytest.raises(ValueError, match=r"model.embed_tokens.weight: old rows differ from the base's in block 0"):
            self.verify(base_dir, zero, base_tokenizer, tokenizer)

    @pytest.mark.parametrize("name", [EMBEDDING, HEAD])
    def test_a_new_row_that_is_no_mixture(self, base_dir, zero, base_tokenizer, tokenizer, name):
        self.change(zero, name, len(base_tokenizer) + 3, 0.5)
        with pytest.raises(ValueError, match=rf"{name}: new rows are up to .* ulp away from a convex combination"):
            self.verify(base_dir, zero, base_tokenizer, tokenizer)

    def test_a_model_that_speaks_differently(self, base_dir, zero, base_tokenizer, tokenizer):
        self.change(zero, "model.norm.weight", slice(None), -1.0)
        with pytest.raises(ValueError, match=r"greedy replies to '你好' differ"):
            self.verify(base_dir, zero, base_tokenizer, tokenizer, greedy=True)


def test_chatglm2_without_roles_is_resized_too(base_dir, tmp_path):
    base = as_chatglm2(copy(base_dir, tmp_path / "base"))
    args = ["--corpus", str(twin.text_file("ja")), "--num_new_pieces", "64", "--output", str(tmp_path / "t")]
    build_tokenizer.main(["--base", str(base), *args])
    report = resize_embeddings.main(
        ["--base", str(base), "--tokenizer", str(tmp_path / "t"), "--output", str(tmp_path / "zero")]
    )
    assert report["greedy_equal"]
    assert GLMTokenizer.load(tmp_path / "zero").stop_ids == [2]


def test_zero_of_the_real_layout_keeps_every_old_logit(data, tmp_path):
    args = ["--pieces", str(data / "reference" / "ja_bpe.model"), "--num_new_pieces", "1000"]
    build_tokenizer.main(["--base", str(data / "chatglm3"), *args, "--output", str(tmp_path / "t")])
    base = str(data / "chatglm3_tiny")
    report = resize_embeddings.main(
        [
            "--base",
            base,
            "--tokenizer",
            str(tmp_path / "t"),
            "--output",
            str(tmp_path / "zero"),
            "--check_characters",
            "90",
        ]
    )
    assert report["rows_after"] == 65856
    theirs = load_file(data / "chatglm3_tiny" / "expected.safetensors")
    with torch.no_grad():
        old, new = (load_model(f, torch.float32)(theirs["input_ids"]).logits for f in (base, tmp_path / "zero"))
    assert torch.equal(new[..., :64798], old[..., :64798])
    zero = load_model(tmp_path / "zero", torch.float32)
    greedy = zero.generate(theirs["greedy"][None, :12], do_sample=False, max_new_tokens=24, eos_token_id=None)
    assert torch.equal(greedy[0], theirs["greedy"])


def test_the_published_resized_model_is_accepted_as_base(data, tmp_path, texts):
    """ChatGLM layout with nine placeholder pieces; here with the twin's weights, since the real ones are 12.5 GB."""
    from tests.support.layouts import convert

    (tmp_path / "t").mkdir()
    (tmp_path / "t" / FILE_NAME).write_bytes((data / "reference" / "cn_and_ja.model").read_bytes())
    base = str(data / "chatglm3_tiny")
    args = ["--check_greedy", "false", "--output", str(tmp_path / "glm")]
    resize_embeddings.main(["--base", base, "--tokenizer", str(tmp_path / "t"), *args])
    convert(tmp_path / "glm", tmp_path / "published", "chatglm")
    (tmp_path / "published" / FILE_NAME).write_bytes((data / "reference" / "cn_and_ja.model").read_bytes())
    args = ["--tokenizer", str(tmp_path / "published"), "--output", str(tmp_path / "out"), "--check_characters", "90"]
    report = resize_embeddings.main(["--base", str(tmp_path / "published"), *args])
    assert (report["rows_before"], report["old_rows_kept"], report["rows_after"]) == (78592, 78554, 78592)


def test_the_family_of_a_base_without_evidence_can_be_given(base_dir, tmp_path):
    base = without_evidence(copy(base_dir, tmp_path / "base"))
    args = ["--base", str(base), "--family", "chatglm2"]
    corpus = ["--corpus", str(twin.text_file("ja")), "--num_new_pieces", "8"]
    build_tokenizer.main([*args, *corpus, "--output", str(tmp_path / "t")])
    report = resize_embeddings.main([*args, "--tokenizer", str(tmp_path / "t"), "--output", str(tmp_path / "zero")])
    assert report["old_rows_kept"] == len(load_tokenizer(base, "chatglm2"))
    assert GLMTokenizer.load(tmp_path / "zero").stop_ids == [2]


@pytest.mark.parametrize("name", ["THUDM/chatglm2-6b", "/data/ChatGLM2-6B/THUDM/chatglm3-6b"])
def test_the_role_rows_of_chatglm3_are_kept_whatever_its_path_was(base_dir, tmp_path, base_tokenizer, name):
    base = copy(base_dir, tmp_path / "base")
    change_config(base, _name_or_path=name)
    corpus = ["--corpus", str(twin.text_file("ja")), "--num_new_pieces", "8"]
    build_tokenizer.main(["--base", str(base), *corpus, "--output", str(tmp_path / "t")])
    resize_embeddings.main(
        ["--base", str(base), "--tokenizer", str(tmp_path / "t"), "--output", str(tmp_path / "zero")]
    )
    roles = [base_tokenizer.control_id(token) for token in ROLE_TOKENS]
    assert [GLMTokenizer.load(tmp_path / "zero").control_id(token) for token in ROLE_TOKENS] == roles
    for matrix in (EMBEDDING, HEAD):
        assert torch.equal(*(rows(folder, matrix)[roles] for folder in (base, tmp_path / "zero")))
