"""What melange costs, as ratios against bare JSON work, kombu, plain boto3 and bare SQL.

``tox -e benchmarks`` installs what they need and runs all of them; see ``__main__`` for the options.
"""
