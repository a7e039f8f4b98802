"""Amazon SNS and SQS through boto3."""

from melange.drivers.aws.driver import AwsDriver

__all__ = ["AwsDriver"]
