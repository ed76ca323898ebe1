"""The model in memory: loading, adapters, loss and generation."""
