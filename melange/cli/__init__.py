"""The ``melange`` command: workers, and the outbox, from the shell. Needs the extra ``melange[cli]``."""
