"""The warehouse packs what was ordered, while stocks last. A service this small needs no domain events."""
