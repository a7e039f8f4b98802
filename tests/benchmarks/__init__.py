"""What melange costs, as ratios against bare JSON work, kombu and plain boto3.

``tox -e benchmarks`` installs what they need and runs all of them; see ``__main__`` for the options.
"""
