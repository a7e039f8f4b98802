"""Listeners and the consumers that run them."""
