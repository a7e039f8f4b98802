"""melange on SNS and SQS beside plain boto3 and others, against a stub that answers at once."""
