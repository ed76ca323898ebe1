"""A laptop-sized stand-in for ChatGLM3, with training texts."""
