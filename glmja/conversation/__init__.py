"""Conversations as token ids, and replies."""
