"""The parts of ``melange.testing.driver_contract``, by topic."""
