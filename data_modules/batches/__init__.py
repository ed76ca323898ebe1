"""Assignment of tokens to rows and micro-batches."""
