"""The service for payments, on Django."""
