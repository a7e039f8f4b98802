"""The protocols in which clients call SQS, SNS and STS, driven by botocore's models of the three services."""
