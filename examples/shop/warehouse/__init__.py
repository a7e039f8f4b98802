"""The warehouse: it packs what was ordered, as long as there is some. So small a service needs no domain events."""
