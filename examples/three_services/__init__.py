"""Three services that tell each other what happened: FastAPI, Django and a function for AWS Lambda."""
