"""The ``melange`` command: runs workers from the shell. Needs the extra ``melange[cli]``."""
