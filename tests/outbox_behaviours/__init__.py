"""What outbox and relay do on every database: suites that the tests of each database inherit."""
