import pytest
import torch
from lightning import Callback

from callbacks.throughput import Throughput, count_tokens, known_peak_tflops
from glmja.modeling.flops import training_flops_per_token
from tests.support.tiny_run import TinyRun, events, loader, make_batch, make_trainer, scalars


class TakesTime(Callback):
    """Takes a second for each micro-batch, and 100 for validation and for saving."""

    def __init__(self, clock):
        self.clock = clock

    def on_before_backward(self, *args):
        self.clock.now += 1

    def on_validation_end(self, *args):
        self.clock.now += 100

    def on_save_checkpoint(self, *args):
        self.clock.now += 100


def test_speed_is_the_number_of_tokens_divided_by_the_time_of_training(zero_dir, tmp_path, clock):
    batches = [make_batch(i, lengths=[16, 8], num_prompt=4) for i in range(8)]
    trainer = make_trainer(
        tmp_path, [Throughput(peak_tflops=1e-3), TakesTime(clock)], accumulate_grad_batches=2, log_every_n_steps=2,
        val_check_interval=2, check_val_every_n_epoch=None, enable_checkpointing=True,
    )  # fmt: skip
    module = TinyRun(zero_dir)
    trainer.fit(module, loader(batches), loader(batches[:1]))
    assert scalars(tmp_path, "speed/tokens_per_s") == {2: 24, 4: 24}
    assert scalars(tmp_path, "speed/target_tokens_per_s") == {2: 16, 4: 16}
    assert scalars(tmp_path, "data/fill") == {2: 0.75, 4: 0.75}
    assert scalars(tmp_path, "data/target_share") == pytest.approx({2: 2 / 3, 4: 2 / 3})
    expected = training_flops_per_token(module.model, (16**2 + 8**2) / 24) * 24 / 1e9
    assert scalars(tmp_path, "speed/mfu") == pytest.approx({2: expected, 4: expected})
    assert all(0.05 < value < 100 for value in scalars(tmp_path, "speed/memory_gb").values())


def test_waiting_for_data_counts(zero_dir, tmp_path, clock):
    class Slow(torch.utils.data.Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            clock.now += 3
            return make_batch(i)

    trainer = make_trainer(tmp_path, [TakesTime(clock), Throughput()], max_steps=6, log_every_n_steps=2)
    trainer.fit(TinyRun(zero_dir), loader(Slow()))
    assert scalars(tmp_path, "speed/tokens_per_s")[4] == 32 / (1 + 3)


def test_a_batch_without_lengths_has_no_padding():
    batch = make_batch(0)
    del batch["lengths"]
    assert count_tokens(batch).tolist() == [32, 32, 30, 2 * 16**2]


def test_attention_is_counted_within_documents():
    batch = make_batch(0, num_rows=1, lengths=[12])
    batch["position_ids"] = torch.tensor([[*range(5), *range(7), 0, 0, 0, 0]])
    assert count_tokens(batch).tolist() == [16, 12, 11, 5**2 + 7**2]


def test_nothing_is_logged_if_logging_is_off(zero_dir, tmp_path):
    make_trainer(tmp_path, [Throughput()], max_steps=2, log_every_n_steps=0).fit(
        TinyRun(zero_dir), loader([make_batch(0)])
    )
    assert not [tag for tag in events(tmp_path).Tags()["scalars"] if tag.startswith("speed/")]


def test_mfu_is_left_out_if_the_peak_is_unknown(zero_dir, tmp_path):
    make_trainer(tmp_path, [Throughput()], max_steps=1).fit(TinyRun(zero_dir), loader([make_batch(0)]))
    tags = events(tmp_path).Tags()["scalars"]
    assert "speed/tokens_per_s" in tags
    assert "speed/mfu" not in tags
    assert known_peak_tflops(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA GeForce GTX 970", None)],
)
def test_peaks_are_of_dense_matrices(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert known_peak_tflops(torch.device("cuda")) == peak


def test_a_peak_must_be_positive():
    with pytest.raises(ValueError, match=r"peak_tflops \(0\) must be positive"):
        Throughput(peak_tflops=0)
