"""Real servers for the tests: each on a free loopback port, each gone when its test run is.

One file per server (``ministack``, ``localstack``, ``melange_server``), each with a ``run()`` that starts the server, yields
its URL and stops it. Servers whose requirements would fight with ours live in virtual environments of
their own (``environments``), pinned in the text file beside them.
"""
