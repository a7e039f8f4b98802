"""The ``melange`` command: its groups are packages, other commands modules. Needs the extra ``melange[cli]``."""
