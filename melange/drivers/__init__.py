"""The driver contract, the registry of drivers, and the drivers that come with melange."""
