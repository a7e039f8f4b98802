"""Real workers on real servers, made to fail by a seed, and a checker of what they did.

``journal`` is what workers write, ``application`` the program of a worker, ``stage`` where they run and are
disturbed, ``proxy`` a broken way to the broker, ``checker`` the judgement, ``rows`` the runs, ``controls``
the proof that the checker can fail. ``tox -e chaos -- --seeds 3`` runs it all at full size.
"""
