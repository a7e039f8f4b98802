"""The service for orders, on FastAPI and SQLAlchemy."""
