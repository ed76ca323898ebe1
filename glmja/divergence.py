"""The end of a run that no longer learns."""


class DivergedError(RuntimeError):
    """Raised when steps in a row had a loss or gradients that are not finite; none of them changed a weight."""
