"""Events that AWS sends itself: each sample that its documentation shows is recognised, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from melange.messages import Message
from melange.serialization.aws_events import (
    aws_event_type,
    cloudwatch_alarm_type,
    eventbridge_event_type,
    s3_event_type,
    ses_event_type,
    sns_event_type,
)
from melange.serialization.serializer import EventSerializer

S3_OBJECT = {
    "Records": [
        {
            "eventVersion": "2.1",
            "eventSource": "aws:s3",
            "awsRegion": "us-west-2",
            "eventTime": "1970-01-01T00:00:00.000Z",
            "eventName": "ObjectCreated:Put",
            "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
            "requestParameters": {"sourceIPAddress": "172.16.0.1"},
            "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8x"},
            "s3": {
                "s3SchemaVersion": "1.0",
                "configurationId": "testConfigRule",
                "bucket": {
                    "name": "amzn-s3-demo-bucket",
                    "ownerIdentity": {"principalId": "A3NL1KOZZKExample"},
                    "arn": "arn:aws:s3:::amzn-s3-demo-bucket",
                },
                "object": {
                    "key": "HappyFace.jpg",
                    "size": 1024,
                    "eTag": "d41d8cd98f00b204e9800998ecf8427e",
                    "versionId": "096fKKXTRTtl3on89fVO.nfljtsv6qko",
                    "sequencer": "0055AED6DCD90281E5",
                },
            },
        }
    ]
}
S3_TEST = {
    "Service": "Amazon S3",
    "Event": "s3:TestEvent",
    "Time": "2014-10-13T15:57:02.089Z",
    "Bucket": "amzn-s3-demo-bucket",
    "RequestId": "5582815E1AEA5ADF",
    "HostId": "8cLeGAmw098X5cv4Zkwcmo8vvZa3eH3eKxsPzbB9wrR+YstdA6Knx4Ip8EXAMPLE",
}
INSTANCE_STATE = {
    "version": "0",
    "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
    "detail-type": "EC2 Instance State-change Notification",
    "source": "aws.ec2",
    "account": "111122223333",
    "time": "2017-12-22T18:43:48Z",
    "region": "us-west-1",
    "resources": ["arn:aws:ec2:us-west-1:123456789012:instance/i-1234567890abcdef0"],
    "detail": {"instance-id": "i-1234567890abcdef0", "state": "terminated"},
}
ALARM = {
    "AlarmName": "Example alarm name",
    "AlarmDescription": "Example alarm description.",
    "AWSAccountId": "000000000000",
    "NewStateValue": "ALARM",
    "NewStateReason": "Threshold Crossed: 1 datapoint (10.0) was greater than or equal to the threshold (1.0).",
    "StateChangeTime": "2017-01-12T16:30:42.236+0000",
    "Region": "EU - Ireland",
    "OldStateValue": "OK",
    "Trigger": {
        "MetricName": "DeliveryErrors",
        "Namespace": "ExampleNamespace",
        "Statistic": "SUM",
        "Unit": None,
        "Dimensions": [],
        "Period": 300,
        "EvaluationPeriods": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "Threshold": 1.0,
    },
}
MAIL = {
    "timestamp": "2016-01-27T14:59:38.237Z",
    "source": "john@example.com",
    "messageId": "00000138111222aa-33322211-cccc-cccc-cccc-ddddaaaa0680-000000",
    "destination": ["jane@example.com"],
}
BOUNCE = {
    "notificationType": "Bounce",
    "bounce": {
        "bounceType": "Permanent",
        "bounceSubType": "General",
        "bouncedRecipients": [{"emailAddress": "jane@example.com", "status": "5.1.1", "action": "failed"}],
        "timestamp": "2016-01-27T14:59:38.237Z",
    },
    "mail": MAIL,
}
RENDERING_FAILURE = {
    "eventType": "Rendering Failure",
    "mail": MAIL,
    "failure": {"errorMessage": "Attribute 'attributeName' is not present", "templateName": "MyTemplate"},
}
SES_SUBSCRIBED = {
    "notificationType": "AmazonSnsSubscriptionSucceeded",
    "message": "You have successfully subscribed your Amazon SNS topic to receive 'Bounce' notifications",
}
CONFIRMATION = {
    "Type": "SubscriptionConfirmation",
    "MessageId": "165545c9-2a5c-472c-8df2-7ff2be2b3b1b",
    "Token": "2336412f37f",
    "TopicArn": "arn:aws:sns:us-west-2:123456789012:MyTopic",
    "Message": "You have chosen to subscribe to the topic arn:aws:sns:us-west-2:123456789012:MyTopic.",
    "SubscribeURL": "https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription",
    "Timestamp": "2012-04-26T20:45:04.751Z",
    "SignatureVersion": "1",
}

SAMPLES = [
    (s3_event_type, S3_OBJECT, "s3:ObjectCreated:Put"),
    (s3_event_type, S3_TEST, "s3:TestEvent"),
    (eventbridge_event_type, INSTANCE_STATE, "EC2 Instance State-change Notification"),
    (eventbridge_event_type, {**INSTANCE_STATE, "source": "shop", "detail-type": "Paid"}, "Paid"),
    (cloudwatch_alarm_type, ALARM, "cloudwatch:Alarm"),
    (ses_event_type, BOUNCE, "ses:Bounce"),
    (ses_event_type, RENDERING_FAILURE, "ses:Rendering Failure"),
    (ses_event_type, SES_SUBSCRIBED, "ses:AmazonSnsSubscriptionSucceeded"),
    (sns_event_type, CONFIRMATION, "sns:SubscriptionConfirmation"),
    (sns_event_type, {**CONFIRMATION, "Type": "UnsubscribeConfirmation"}, "sns:UnsubscribeConfirmation"),
    (sns_event_type, {**CONFIRMATION, "Type": "Notification"}, "sns:Notification"),
]
FUNCTIONS = [s3_event_type, eventbridge_event_type, cloudwatch_alarm_type, ses_event_type, sns_event_type]

EventType = Callable[[Any, Any], "str | None"]


@pytest.mark.parametrize(("recognises", "body", "name"), SAMPLES)
def test_each_event_is_recognised_by_its_own_function_alone(
    recognises: EventType, body: Any, name: str
) -> None:
    found = {function for function in FUNCTIONS if function(body, {}) is not None}

    assert found == {recognises}
    assert recognises(body, {}) == name


@pytest.mark.parametrize("body", [body for _, body, _ in SAMPLES])
def test_listeners_get_the_body_as_aws_sent_it(body: Any) -> None:
    serializer = EventSerializer()

    name, data = serializer.read(Message("id", json.dumps(body)), aws_event_type)

    assert name == aws_event_type(body, {})
    assert serializer.load(name, data) == body


def test_the_text_with_which_ses_tries_a_topic_has_a_type() -> None:
    text = "Successfully validated SNS topic for Amazon SES event publishing."

    assert EventSerializer().read(Message("id", text), aws_event_type) == ("ses:TopicValidated", text)


def test_an_s3_event_of_several_records_comes_whole() -> None:
    removed = {**S3_OBJECT["Records"][0], "eventName": "ObjectRemoved:Delete"}
    body = {"Records": [*S3_OBJECT["Records"], removed]}

    assert EventSerializer().read(Message("id", json.dumps(body)), aws_event_type) == (
        "s3:ObjectCreated:Put",
        body,
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        5,
        "",
        "Hello",
        {"Records": []},
        {"Records": 5},
        {"Records": [5]},
        {"Records": [{"eventSource": "aws:s3"}]},
        {"Records": [{"eventSource": "aws:s3", "eventName": 5}]},
        {"Records": [{"eventSource": "aws:dynamodb", "eventName": "INSERT"}]},
        {"Service": "Amazon S3"},
        {"detail-type": "Paid"},
        {"detail-type": "", "source": "shop", "detail": {}},
        {"detail-type": ["Paid"], "source": "shop", "detail": {}},
        {"AlarmName": "x", "NewStateValue": 5, "NewStateReason": None},
        {"notificationType": "Bounce"},
        {"eventType": ["Bounce"], "mail": {}},
        {"mail": {}},
        {"Type": "Notification"},
        {"Type": ["Notification"], "TopicArn": "x"},
        {"Type": "Other", "TopicArn": "x"},
        {"event_type_name": "ProductAdded", "source": "shop", "mail": "x"},
    ],
    ids=json.dumps,
)
def test_other_bodies_are_not_recognised(body: Any) -> None:
    assert aws_event_type(body, {}) is None
