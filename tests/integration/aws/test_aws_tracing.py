"""Spans over SNS and SQS, on a local server, beside the instrumentation of botocore."""

import uuid

import boto3
import pytest
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from melange import ExchangeMessageConsumer, ExchangeMessagePublisher, QueueMessagePublisher, QueueOptions
from melange.drivers.aws import AwsDriver
from melange.telemetry import Tracing

EVENT = {"event_type_name": "ProductAdded"}


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture(params=[False, True], ids=["alone", "beside botocore's instrumentation"])
def instrumented(request, provider):
    instrumentor = BotocoreInstrumentor()
    if request.param:
        instrumentor.instrument(tracer_provider=provider)
    yield request.param
    if request.param:
        instrumentor.uninstrument()


@pytest.fixture
def driver(instrumented, sns_sqs_server, provider):
    with AwsDriver(endpoint_url=sns_sqs_server, region_name="us-east-1") as driver:
        driver.middleware = [Tracing(provider)]
        yield driver


@pytest.fixture
def name():
    return f"traced-{uuid.uuid4().hex[:12]}"


def consumer_on(driver, name):
    consumer = ExchangeMessageConsumer(name, name, driver=driver, queue=QueueOptions(wait_seconds=5))
    seen = []
    consumer.listener(name="see")(lambda event, headers: seen.append(dict(headers)))
    return consumer, seen


def spans_of(exporter, name):
    return [span for span in exporter.get_finished_spans() if span.name == name]


def test_the_context_travels_through_a_topic_and_is_that_of_the_message(driver, exporter, name):
    consumer, seen = consumer_on(driver, name)
    publisher = ExchangeMessagePublisher(name, driver)
    publisher.publish(EVENT)
    publisher.publish_batch([EVENT] * 2)

    while len(seen) < 3:
        assert consumer.consume_event() > 0

    creating = [
        span
        for span in (*spans_of(exporter, f"send {name}"), *spans_of(exporter, f"create {name}"))
        if span.kind.name == "PRODUCER"
    ]
    traceparents = {f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}" for span in creating}
    assert len(traceparents) == 3
    assert {headers["traceparent"][:52] for headers in seen} == traceparents
    linked = {link.context.span_id for span in spans_of(exporter, f"process {name}") for link in span.links}
    assert linked == {span.context.span_id for span in creating}
    assert {span.attributes["messaging.system"] for span in creating} == {"aws.sns"}
    assert creating[0].attributes["aws.sns.topic.arn"].endswith(f":{name}")


def test_a_message_sent_to_a_queue_has_the_header_of_x_ray(driver, sns_sqs_server, exporter, name):
    consumer, _ = consumer_on(driver, name)
    QueueMessagePublisher(name, driver).send(EVENT)

    sqs = boto3.client("sqs", endpoint_url=sns_sqs_server, region_name="us-east-1")
    (raw,) = sqs.receive_message(
        QueueUrl=consumer.queue.address,
        MessageAttributeNames=["All"],
        MessageSystemAttributeNames=["AWSTraceHeader"],
        WaitTimeSeconds=5,
    )["Messages"]

    (send,) = spans_of(exporter, f"send {name}")
    trace_id = f"{send.context.trace_id:032x}"
    assert raw["Attributes"]["AWSTraceHeader"] == (
        f"Root=1-{trace_id[:8]}-{trace_id[8:]};Parent={send.context.span_id:016x};Sampled=1"
    )
    assert raw["MessageAttributes"]["traceparent"]["StringValue"].split("-")[1] == trace_id
    assert send.attributes["messaging.system"] == "aws_sqs"
    assert send.attributes["aws.sqs.queue.url"] == consumer.queue.address


def test_the_calls_of_an_operation_make_no_spans_of_their_own(driver, exporter, name):
    consumer, seen = consumer_on(driver, name)
    exporter.clear()  # declaring is not an operation on messages

    ExchangeMessagePublisher(name, driver, declare=False).publish_batch([EVENT] * 2)
    while len(seen) < 2:
        assert consumer.consume_event() > 0

    operations = {"create", "send", "receive", "process", "settle", "see"}
    others = [span.name for span in exporter.get_finished_spans() if span.name.split()[0] not in operations]
    assert others in ([], ["SNS.GetTopicAttributes"])  # the look-up of the topic
