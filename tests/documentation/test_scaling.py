"""The manifests for scaling in the operations handbook are valid, and say what the text says."""

from __future__ import annotations

import json
import re
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator

from documentation.pages import DOCS

PAGE = (DOCS / "operations.md").read_text()
DEPLOYMENT = (DOCS / "containers.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def scaled_object():
    (block,) = blocks("yaml")
    return yaml.safe_load(block)


@pytest.fixture
def policy():
    return json.loads(blocks("json")[0])


@pytest.fixture
def drain_time():
    return json.loads(blocks("json")[1])


def problems(service: str, operation: str, parameters: dict[str, Any]) -> str:
    """Return what the model of an AWS service says against the parameters."""
    model = botocore.session.get_session().get_service_model(service).operation_model(operation)
    return ParamValidator().validate(parameters, model.input_shape).generate_report()


def value_of(expression: str, **metrics: float) -> float:
    """Return the value of a metric math expression of plain arithmetic."""
    assert re.fullmatch(r"[a-z_0-9 ()/*+-]+", expression)
    return float(eval(expression, {}, metrics))


def test_keda_gets_what_its_trigger_asks_for(scaled_object) -> None:
    spec = scaled_object["spec"]
    (trigger,) = spec["triggers"]

    # KEDA reads all of a trigger's metadata as text, and refuses numbers.
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert trigger["type"] == "aws-sqs-queue"
    assert set(trigger["metadata"]) == {"queueURL", "queueLength", "awsRegion"}
    assert trigger["metadata"]["awsRegion"] in trigger["metadata"]["queueURL"]


def test_keda_scales_the_deployment_of_the_other_page(scaled_object) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", DEPLOYMENT, re.MULTILINE | re.DOTALL)
    deployment = yaml.safe_load(block)

    spec = scaled_object["spec"]
    assert spec["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert spec["cooldownPeriod"] > deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]


def test_the_policy_for_ecs_is_one_that_aws_accepts(policy) -> None:
    parameters = {
        "PolicyName": "backlog",
        "PolicyType": "TargetTrackingScaling",
        "ServiceNamespace": "ecs",
        "ResourceId": "service/shop/stock",
        "ScalableDimension": "ecs:service:DesiredCount",
        "TargetTrackingScalingPolicyConfiguration": policy,
    }

    assert problems("application-autoscaling", "PutScalingPolicy", parameters) == ""


def test_both_scale_to_the_same_backlog_of_a_worker(policy, scaled_object) -> None:
    (trigger,) = scaled_object["spec"]["triggers"]
    *_, backlog = policy["CustomizedMetricSpecification"]["Metrics"]

    assert policy["TargetValue"] == int(trigger["metadata"]["queueLength"]) == 20 * 30
    assert value_of(backlog["Expression"], visible=1_200, tasks=2) == policy["TargetValue"]


def test_one_series_is_returned(policy, drain_time) -> None:
    for metrics in (policy["CustomizedMetricSpecification"]["Metrics"], drain_time):
        assert [metric["ReturnData"] for metric in metrics] == [False, False, True]


def test_the_drain_time_is_in_seconds_and_one_that_cloudwatch_accepts(drain_time) -> None:
    parameters = {"MetricDataQueries": drain_time, "StartTime": 0, "EndTime": 60}

    assert problems("cloudwatch", "GetMetricData", parameters) == ""
    assert value_of(drain_time[-1]["Expression"], visible=600, deleted=20 * 60) == 30
