"""Written by ``makemigrations``."""
