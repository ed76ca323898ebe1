"""Each known defect of the libraries, reintroduced into a copy of the code, fails a test.

The defects were found in Lightning, DeepSpeed and transformers; glmja works around them. Each row replaces one line of
code by what it would be with the defect. When the line changes, update the row.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("glmja", "data_modules", "lit_modules", "callbacks", "configs", "tests", "setup.cfg", "pyproject.toml")
EQUIVALENT = "tests/lit_modules/test_zero2.py::test_zero2_trains_like_one_process_of_plain_torch_on_the_same_batches[2]"
STOPPED = (
    "tests/system/test_graceful_stop.py::test_a_run_that_is_stopped_resumed_and_extended_equals_an_uninterrupted_one"
)

DEFECTS = {
    "01 processors do not divide gradients, only the optimizer's state": (
        "lit_modules/zero2.py",
        "            stage=2,",
        "            stage=1,",
        [EQUIVALENT],
    ),
    "02 gradients are divided twice": (
        "lit_modules/zero2.py",
        "*args, scale_wrt_gas=False, **kwargs)",
        "*args, **kwargs)",
        [EQUIVALENT],
    ),
    "03 a run ends amid an optimizer step": (
        "data_modules/pretraining.py",
        "num_planned = num_rows - num_rows % rows_in_step",
        "num_planned = num_rows - num_rows % self.batch_size",
        ["tests/system/test_bad_inputs.py::test_bad_input[14 rows that do not fill the last accumulated step]"],
    ),
    "04 a checkpoint is saved amid an optimizer step": (
        "callbacks/final_checkpoint.py",
        "if batches % trainer.accumulate_grad_batches == 0:",
        "if batches:",
        ["tests/system/test_resume.py::test_nothing_is_saved_between_the_micro_batches_of_a_step"],
    ),
    "05 files of two checkpoints are loaded as one": (
        "glmja/runs/manifest.py",
        "if sha256 != record[\"sha256\"]:",
        "if False:",
        ["tests/runs/test_manifest.py"],
    ),
    "06 parameters in another order are loaded, swapped": (
        "glmja/runs/identity.py",
        "now, then = self.as_json(), saved.as_json()",
        "now, then = self.as_json(), saved.as_json()\n"
        "        for known in (now, then):\n            known[\"trainable\"] = sorted(known.get(\"trainable\", []))",
        ["tests/runs/test_identity.py"],
    ),
    "07 SIGTERM is left to Lightning": (
        "callbacks/final_checkpoint.py",
        "for number in (signal.SIGTERM, signal.SIGUSR1):",
        "for number in ():",
        [STOPPED],
    ),
    "08 a rank that raises saves, and waits for the others": (
        "callbacks/final_checkpoint.py",
        "    def on_train_end(",
        "    def on_exception(self, trainer, *_):\n        self._save(trainer)\n\n    def on_train_end(",
        ["tests/system/test_rank_failure.py::test_when_a_process_fails_all_end[1-raise]"],
    ),
    "09 random states are not resumed": (
        "callbacks/exact_resume.py",
        "        set_random_state(self.loaded)\n",
        "",
        [STOPPED],
    ),
    "10 a loss that is not a number reaches the weights": (
        "lit_modules/gradient_steps.py",
        "if scaler is None and not torch.isfinite(norm):",
        "if False:",
        ["tests/callbacks/test_non_finite_guard.py"],
    ),
    "10 a loss that is not a number reaches the weights under ZeRO-2": (
        "lit_modules/zero2.py",
        "self.config[\"bf16\"][\"check_grad_overflow\"] = True",
        "self.config[\"bf16\"][\"check_grad_overflow\"] = False",
        ["tests/callbacks/test_non_finite_guard.py::test_a_bad_loss_of_one_rank_skips_the_step_of_all_and_ends_all[bf16-mixed]"],
    ),
    "10 a conversation without target tokens is kept": (
        "data_modules/stores/chat_rendering.py",
        "for example in examples if any(example[1][1:])]  #",
        "for example in examples]  #",
        ["tests/data_modules/test_chat_store.py"],
    ),
    "11 a malicious Lightning may be installed": (
        "setup.cfg",
        "lightning>=2.6.6,!=2.6.2,!=2.6.3,<2.7",
        "lightning>=2.6,<2.7",
        ["tests/project/test_dependencies.py"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defects")
    for path in map(ROOT.joinpath, COPIED):
        if path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)
    return folder


def outcome(folder, tests):
    """Runs tests and returns the exit code of pytest and its output; only a failed test gives 1."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", "slow or not slow", "-n", "0", *tests],
        cwd=folder, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
        timeout=900,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_row_names_a_line_of_code_and_tests_that_exist(defect):
    name, now, _, tests = DEFECTS[defect]
    assert (ROOT / name).read_text(encoding="utf-8").count(now) == 1
    for path, _, test in (entry.partition("::") for entry in tests):
        assert f"def {test.partition('[')[0]}" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tests_pass_without_a_defect(copy):
    code, output = outcome(copy, sorted({test for *_, tests in DEFECTS.values() for test in tests}))
    assert code == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_reintroduced_defect_fails_a_test(copy, defect):
    name, now, put_back, tests = DEFECTS[defect]
    path = copy / name
    text = path.read_text(encoding="utf-8")
    assert text.count(now) == 1, f"{name} no longer says {now!r} once"
    path.write_text(text.replace(now, put_back), encoding="utf-8")
    try:
        code, output = outcome(copy, tests)
    finally:
        path.write_text(text, encoding="utf-8")
    assert code == 1, output
