"""SNS and SQS as far as a test needs them: answers made up by the test, real botocore, no network."""

from __future__ import annotations

import functools
import json
import threading
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config

from melange.drivers.aws import AwsDriver
from melange.messages import Queue, Topic

ONE_ATTEMPT = Config(retries={"mode": "standard", "total_max_attempts": 1})

TOPIC = Topic("products", "arn:aws:sns:us-east-1:123456789012:products")
FIFO_TOPIC = Topic("products.fifo", "arn:aws:sns:us-east-1:123456789012:products.fifo", is_fifo=True)
QUEUE = Queue("stock", "https://sqs.us-east-1.amazonaws.com/123456789012/stock")
FIFO_QUEUE = Queue("stock.fifo", "https://sqs.us-east-1.amazonaws.com/123456789012/stock.fifo", is_fifo=True)


class InstantClock:
    """A clock on which every wait is over at once; it remembers how long they were to be."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds


Answer = AWSResponse | Exception | Callable[[dict[str, Any]], AWSResponse]


class CannedBroker:
    """Answers calls in the order in which answers were put in; the last one of an operation is kept on.

    All share one session, since reading botocore's models takes longer than a test; one is in use at a time.
    """

    def __init__(self) -> None:
        self.session = _session_for(self)
        self.bodies: list[Any] = []
        """What was sent, as bytes."""
        self.sent: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """The parameters of each call, by operation."""
        self.requests: dict[str, int] = defaultdict(int)
        """How many HTTP requests each operation took, botocore's retries included."""
        self._answers: dict[str, list[Answer]] = defaultdict(list)

    def will_answer(self, operation: str, *answers: Answer) -> None:
        self._answers[operation] += answers

    def will_now_answer(self, operation: str, *answers: Answer) -> None:
        """Forget what was to be answered before."""
        self._answers[operation] = [*answers]

    def driver(self, clock: Any = None, **options: Any) -> AwsDriver:
        return AwsDriver(session=self.session, clock=clock or InstantClock(), **options)

    def record(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.sent[model.name].append(dict(params))

    def answer(self, event_name: str, request: Any, **_: Any) -> AWSResponse:
        self.bodies.append(request.body)
        operation = event_name.rpartition(".")[2]
        self.requests[operation] += 1
        answers = self._answers[operation]
        if not answers:
            raise AssertionError(f"the test has no answer to {operation}")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, AWSResponse) else answer(self.sent[operation][-1])


_in_use: list[CannedBroker] = []


def _session_for(broker: CannedBroker) -> boto3.Session:
    _in_use[:] = [broker]
    return shared_session()


@functools.cache
def shared_session() -> boto3.Session:
    """Return the session of all canned brokers, which has read botocore's models."""
    session = boto3.Session(
        aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key="very-secret", region_name="us-east-1"
    )
    for service in ("sns", "sqs", "sts"):
        session.events.register(f"provide-client-params.{service}.*", _record)
    session.events.register("before-send", _answer)
    return session


def _record(**event: Any) -> None:
    _in_use[0].record(**event)


def _answer(**event: Any) -> AWSResponse:
    return _in_use[0].answer(**event)


class _Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> list[bytes]:
        return [self._body]


def http_answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> AWSResponse:
    return AWSResponse("https://aws.example", status, headers or {}, _Raw(body))


def sqs_answer(**fields: Any) -> AWSResponse:
    body = json.dumps(fields).encode()
    return http_answer(200, body, {"content-length": str(len(body))})


def sqs_error(code: str, message: str = "", *, status: int = 400, modeled: str | None = None) -> AWSResponse:
    """As SQS answers: the code of the old Query protocol in a header, the modelled name in the body."""
    body = json.dumps({"__type": f"com.amazonaws.sqs#{modeled or code}", "message": message}).encode()
    return http_answer(status, body, {"x-amzn-query-error": f"{code};Sender"})


def sns_answer(operation: str, result: str = "") -> AWSResponse:
    body = (
        f'<{operation}Response xmlns="http://sns.amazonaws.com/doc/2010-03-31/">'
        f"<{operation}Result>{result}</{operation}Result></{operation}Response>"
    ).encode()
    return http_answer(200, body, {"content-length": str(len(body))})


def sns_error(code: str, message: str = "", *, status: int = 400) -> AWSResponse:
    body = (
        '<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
    ).encode()
    return http_answer(status, body)


def batch_answer(
    failed: dict[str, dict[str, Any]] | None = None, forgotten: frozenset[str] = frozenset()
) -> Callable[[dict[str, Any]], AWSResponse]:
    """An SQS batch of which the entries named in ``failed`` fail, and ``forgotten`` are not mentioned."""
    failed = failed or {}

    def answer(params: dict[str, Any]) -> AWSResponse:
        ids = [entry["Id"] for entry in params["Entries"]]
        return sqs_answer(
            Successful=[{"Id": one} for one in ids if one not in failed and one not in forgotten],
            Failed=[{"Id": one, **failed[one]} for one in ids if one in failed],
        )

    return answer


def publish_answer(
    failed: dict[str, tuple[str, bool]] | None = None,
) -> Callable[[dict[str, Any]], AWSResponse]:
    """An SNS batch of which the entries named in ``failed`` fail, with a code and whose fault it was."""
    failed = failed or {}

    def answer(params: dict[str, Any]) -> AWSResponse:
        ids = [entry["Id"] for entry in params["PublishBatchRequestEntries"]]
        bad = "".join(
            f"<member><Id>{one}</Id><Code>{failed[one][0]}</Code><Message>no</Message>"
            f"<SenderFault>{str(failed[one][1]).lower()}</SenderFault></member>"
            for one in ids
            if one in failed
        )
        good = "".join(
            f"<member><Id>{one}</Id><MessageId>sns-{one}</MessageId></member>"
            for one in ids
            if one not in failed
        )
        return sns_answer("PublishBatch", f"<Failed>{bad}</Failed><Successful>{good}</Successful>")

    return answer
