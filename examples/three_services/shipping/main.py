"""The function: ``three_services.shipping.main.handle`` in Lambda, ``python -m three_services.shipping.main`` on a laptop."""

from __future__ import annotations

from melange.aws_lambda import LocalEventSource
from three_services.shipping.function import make_handler

handle = make_handler()

if __name__ == "__main__":
    LocalEventSource(handle).run()
