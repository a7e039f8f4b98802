"""Real workers on real servers, made to fail by a seed, and a checker of what they did.

``application`` is the program of a worker, which writes a ``journal``. On a ``stage`` workers run and are
disturbed, ``proxy`` is a broken way to the broker. The ``checker`` judges; ``rows`` are the runs, ``controls``
the proof that the checker can fail. ``tox -e chaos -- --seeds 3`` runs it all at full size.
"""
