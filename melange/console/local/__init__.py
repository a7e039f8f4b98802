"""The backend for ``melange server``, in its process: it reads the state directly, so that looking touches no message."""
