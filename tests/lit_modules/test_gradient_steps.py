import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from tests.support.tiny_run import TinyRun, loader, make_batch, make_trainer


class FusedRun(TinyRun):
    def configure_optimizers(self):
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3, fused=True)


def test_a_fused_optimizer_whose_gradients_would_be_clipped_while_scaled_is_refused(zero_dir, tmp_path):
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    trainer = make_trainer(tmp_path, [], plugins=[scaled], gradient_clip_val=1.0, max_steps=1)
    message = "a fused AdamW under precision 16-mixed would get gradients that are clipped .*; set `fused` to false$"
    with pytest.raises(ValueError, match=message):
        trainer.fit(FusedRun(zero_dir), loader([make_batch(0)]))
