import pytest
import torch
import torch.nn.functional as F

from data_modules import PackedPretrainingData, TextSource
from data_modules.batches.rows import collate
from glmja import fit
from glmja.modeling.adapters import unwrap_peft
from glmja.modeling.attention import model_inputs
from glmja.modeling.contracts import teacher_flops
from glmja.modeling.flops import forward_flops_per_token
from glmja.modeling.loading import load_model
from glmja.runs.identity import RunIdentity
from glmja.runs.trained_state import TrainedState
from glmja.twin.build import text_file
from lit_modules.preflight import estimate_memory
from tests.support.demo_run import args
from tests.support.fake_trainer import FakeTrainer
from tests.support.tiny_run import scalars

SHORT = {"trainer.callbacks": "[]", "trainer.max_steps": 2, "model.init_args.lora.dropout": 0.0}
KEPT = {"model.init_args.retention.languages": '["zh", "en"]', "model.init_args.retention.weight": 3}


@pytest.fixture(scope="module")
def run(zero_dir, tmp_path_factory):
    """A run of two steps, and a copy of the model that it started from."""
    folder = tmp_path_factory.mktemp("retention")
    trainer = fit.main(args(zero_dir, folder, "demo_pretrain", **SHORT, **KEPT))
    return folder, trainer, load_model(zero_dir, torch.float32, "documents")


def rows_of(data, *sources):
    """Returns a batch of one row of each of some sources."""
    return collate([data.rows[data.rows.sources.tolist().index(source)] for source in sources])


def plain_loss(glm, base, batch, distilled, weight):
    logits = glm(**model_inputs(batch, "documents")).logits[:, :-1]
    with torch.no_grad():
        wanted = base(**model_inputs(batch, "documents")).logits[:, :-1, :2509].softmax(-1)
    log_p, labels = logits.log_softmax(-1), batch["labels"][:, 1:]
    entropy = F.nll_loss(log_p.transpose(1, 2), labels, ignore_index=-100, reduction="none")
    kl = F.kl_div(log_p[..., :2509], wanted, reduction="none").sum(-1) * (labels != -100)
    return torch.where(torch.tensor(distilled)[:, None], weight * kl, entropy).sum()


@pytest.mark.parametrize("sources", [(0, 0), (1, 2), (1, 0), (0, 2, 1)])
def test_the_loss_is_cross_entropy_and_the_weighted_divergence_from_the_start(run, sources):
    _, trainer, base = run
    module, batch = trainer.lightning_module.train(), rows_of(trainer.datamodule, *sources)
    distilled = [source > 0 for source in sources]
    loss = module.step_loss(batch)
    plain = plain_loss(unwrap_peft(module.model), base, batch, distilled, 3)
    torch.testing.assert_close(loss.total, plain)
    parameters = [p for p in module.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(each, parameters) for each in (loss.total, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    langs = [["ja", "zh", "en"][source] for source in sources]
    assert {part.name for part in loss.parts} == {"loss" if lang == "ja" else f"{lang}/kl" for lang in langs}
    assert sum(part.num_tokens for part in loss.parts) == len(loss.targets_N) == (batch["labels"][:, 1:] != -100).sum()
    assert module.loss(batch)[0] == loss.total


def test_the_divergences_are_logged(run):
    folder, trainer, _ = run
    assert trainer.lightning_module.logged_names(trainer.datamodule.validation_sources) >= {
        "train/loss", "train/zh/kl", "val/en/kl", "val/ja/loss"
    }  # fmt: skip
    for lang in ("zh", "en"):
        assert all(0 < kl < 1 for kl in scalars(folder / "run", f"train/{lang}/kl").values())
        assert all(0 < kl < 1 for kl in scalars(folder / "run", f"val/{lang}/kl").values())
    assert all(loss > 5 for loss in scalars(folder / "run", "train/loss").values())


def test_the_teacher_counts_in_memory_and_operations(run):
    _, trainer, base = run
    module = trainer.lightning_module
    needs = estimate_memory(module, trainer)
    assert needs.weights == sum(p.numel() * p.element_size() for p in module.parameters())
    rows = module.base_rows
    assert sum(p.numel() for p in rows.parameters()) == base.lm_head.weight.numel() + 2509 * 64
    batch = rows_of(trainer.datamodule, 1, 0, 2)
    distilled = batch["position_ids"][[0, 2]]
    attended = int((2 * distilled + 1).sum()) / distilled.numel()
    assert teacher_flops(module, batch) == int(distilled.numel() * forward_flops_per_token(base.config, attended, 2509))
    assert teacher_flops(module, rows_of(trainer.datamodule, 0)) == teacher_flops(object(), batch) == 0


def test_a_teacher_without_weight_changes_nothing(zero_dir, tmp_path):
    states = []
    for name, changes in (("plain", {}), ("weightless", KEPT | {"model.init_args.retention.weight": 0})):
        trainer = fit.main(args(zero_dir, tmp_path / name, "demo_pretrain", **SHORT, **changes))
        assert trainer.lightning_module.base_rows is None
        states.append(TrainedState.open(tmp_path / name / "run").tensors)
        states[-1] = {name: tensor.read_all() for name, tensor in states[-1].items()}
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (
            "demo_pretrain",
            {"model.init_args.retention.languages": '["zh", "fr"]'},
            "no source has the language fr, the sources have en, ja, zh; correct the languages of "
            "--model.retention, or add a source",
        ),
        (
            "demo_pretrain",
            {"model.init_args.tuning": "full", **KEPT},
            "set --model.tuning to lora, or leave out --model.retention",
        ),
        (
            "demo_sft",
            {"model": "lit_modules.PackedPretraining", "model.init_args.retention.languages": '["all"]'},
            "needs rows of one source each; use data_modules.PackedPretrainingData",
        ),
    ],
)
def test_what_cannot_have_a_teacher_is_refused_in_one_line(zero_dir, tmp_path, capsys, recipe, changes, message):
    with pytest.raises(SystemExit) as stop:
        fit.main(args(zero_dir, tmp_path, recipe, **changes))
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_a_run_with_another_retention_is_not_resumed(run, zero_dir, capsys):
    folder, _, _ = run
    for change, message in (
        ({"model.init_args.retention.weight": 5}, "{'weight': 3.0}}, this run has {'retention': {"),
        ({"model.init_args.retention.languages": "[]"}, "this run has None; set --model.retention to the"),
    ):
        with pytest.raises(SystemExit) as stop:
            fit.main([*args(zero_dir, folder, "demo_pretrain", **SHORT | KEPT | change), "--ckpt_path=last"])
        assert stop.value.code == 4 and "was saved with objective" in (said := capsys.readouterr().err)
        assert message in said or "weight" in said


class Distilling:
    """What the plan needs of a module."""

    retained_languages = ("zh", "en")

    def teacher_flops(self, batch):
        raise AssertionError


def planned(zero_dir, tmp_path, module, saved=None, **trainer):
    sources = [TextSource(x, x, [str(text_file(x))]) for x in ("ja", "zh", "en")]
    data = PackedPretrainingData(str(zero_dir), sources, 64, 3, epochs=2, cache_dir=str(tmp_path))
    data.trainer, data.saved = FakeTrainer(**trainer), saved
    data.trainer.lightning_module = module
    data.setup("fit")
    return data


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (4, 1), (2, 3)])
def test_all_ranks_have_rows_with_a_teacher_in_the_same_micro_batches(zero_dir, tmp_path, world_size, accumulate):
    data = planned(zero_dir, tmp_path, Distilling(), world_size=world_size, accumulate=accumulate)
    distilled = data.rows.sources[data.plan.reshape(-1, world_size * 3)] > 0
    assert (distilled.all(1) | ~distilled.any(1)).all() and distilled.any() and not distilled.all()
    # and one source is not read at the expense of another
    assert abs(distilled.mean() - 0.486) < 0.05
    assert data.settings["retained"] == ["en", "zh"]


def test_the_order_is_that_of_the_first_start_on_another_number_of_ranks(zero_dir, tmp_path):
    first = planned(zero_dir, tmp_path, Distilling(), world_size=4)
    saved = RunIdentity(world_size=4, plan_ranks=4, data=first.fingerprint)
    again = planned(zero_dir, tmp_path, Distilling(), saved, world_size=2, accumulate=2)
    assert again.fingerprint == first.fingerprint and (again.rows.sources == first.rows.sources).all()


def test_without_a_teacher_the_plan_is_as_ever(zero_dir, tmp_path):
    plain, other, distilled = (
        planned(zero_dir, tmp_path, module, world_size=2) for module in (None, object(), Distilling())
    )
    assert plain.fingerprint == other.fingerprint != distilled.fingerprint
    assert (plain.rows.sources == other.rows.sources).all() and "retained" not in plain.settings
