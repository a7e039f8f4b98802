"""Messaging for event-driven Python applications."""
