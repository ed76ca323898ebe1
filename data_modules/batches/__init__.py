"""Which tokens go into which row and micro-batch."""
