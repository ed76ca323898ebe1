"""A stand-in for a Trainer where a plan of batches is tested without a model."""


class FakeTrainer:
    """The facts about a trainer that a plan depends on."""

    def __init__(self, max_steps=-1, world_size=1, accumulate=1, rank=0):
        self.max_steps, self.world_size, self.accumulate_grad_batches = max_steps, world_size, accumulate
        self.global_rank, self.max_epochs, self.limit_train_batches = rank, 1, 1.0
