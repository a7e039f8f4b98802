"""Events to JSON text and back: schemas by hand, derived ones, and the serializer."""
