"""A stand-in for a Trainer, to test the planning of batches without a model."""


class FakeStrategy:
    """Broadcasts what the test says that the first process sends."""

    def __init__(self):
        self.sent = {}

    def broadcast(self, value):
        return self.sent or value


class FakeTrainer:
    """The attributes of a Trainer that the plan depends on."""

    def __init__(self, max_steps=-1, world_size=1, accumulate=1, rank=0):
        self.max_steps, self.world_size, self.accumulate_grad_batches = max_steps, world_size, accumulate
        self.global_rank, self.max_epochs, self.limit_train_batches = rank, 1, 1.0
        self.strategy = FakeStrategy()
