"""A web server on a socket that is open already: ``python serve.py asgi|wsgi MODULE:APPLICATION FILE_DESCRIPTOR``."""

from __future__ import annotations

import importlib
import socket
import sys


def main(kind: str, application: str, file_descriptor: str) -> None:
    module, _, name = application.partition(":")
    app = getattr(importlib.import_module(module), name)
    if kind == "asgi":
        uvicorn = importlib.import_module("uvicorn")
        uvicorn.run(app, fd=int(file_descriptor), log_level="warning")
    else:
        waitress = importlib.import_module("waitress")
        waitress.serve(app, sockets=[socket.socket(fileno=int(file_descriptor))])


if __name__ == "__main__":
    main(*sys.argv[1:])
