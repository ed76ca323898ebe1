"""A stand-in for a Trainer, to test the planning of batches without a model."""


class FakeTrainer:
    """The attributes of a Trainer that the plan depends on."""

    def __init__(self, max_steps=-1, world_size=1, accumulate=1, rank=0):
        self.max_steps, self.world_size, self.accumulate_grad_batches = max_steps, world_size, accumulate
        self.global_rank, self.max_epochs, self.limit_train_batches = rank, 1, 1.0
