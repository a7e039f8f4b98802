"""A shop of two services that tell each other what happened: ``python -m shop`` runs it, docs/shop.md explains it."""
