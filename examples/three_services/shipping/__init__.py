"""The service for shipping, a function for AWS Lambda."""
