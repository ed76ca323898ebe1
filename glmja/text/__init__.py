"""Characters, scripts and text measures; no model."""
