"""The Django app ``melange.django``: settings, commands, an outbox on Django's ORM, and scopes for requests."""
