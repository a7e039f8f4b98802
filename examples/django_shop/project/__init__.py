"""A Django project with melange."""
