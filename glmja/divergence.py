"""The end of a run whose loss is no longer a number."""


class DivergedError(RuntimeError):
    """Raised before the backward pass of a loss that is not finite."""
