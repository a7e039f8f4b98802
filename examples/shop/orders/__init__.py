"""The order service: products, customers' accounts and orders."""
