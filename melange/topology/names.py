"""Names of topics and queues as exports write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from melange.topology.model import Topology, is_address, plain_name

PAYLOAD_RULE = "delete-old-payloads"
"""The lifecycle rule that deletes the payloads of large events from their bucket."""

DAYS_OF_UPLOADS = 1
"""How long the bucket of large events keeps uploads that were never finished."""


@dataclass(frozen=True, slots=True)
class Account:
    """Where the topology is, for ARNs; the defaults are placeholders to be replaced."""

    region: str = "REGION"
    account: str = "ACCOUNT"
    partition: str = "aws"


def broker_name(topology: Topology, name: str) -> str:
    """Return the name with the prefix of the topology."""
    return plain_name(name) if is_address(name) else topology.prefix + name


def topic_arn(topology: Topology, name: str, place: Account) -> str:
    """Return the ARN of a topic."""
    if is_address(name):
        return name
    return f"arn:{place.partition}:sns:{place.region}:{place.account}:{broker_name(topology, name)}"


def queue_arn(topology: Topology, name: str, place: Account) -> str:
    """Return the ARN of a queue."""
    if name.startswith("arn:"):
        return name
    account = name.rstrip("/").split("/")[-2] if is_address(name) else place.account
    return f"arn:{place.partition}:sqs:{place.region}:{account}:{broker_name(topology, name)}"


def identifier(name: str) -> str:
    """Return the name as an identifier of Terraform."""
    found = re.sub(r"[^A-Za-z0-9_]", "_", plain_name(name))
    return found if not found[:1].isdigit() else f"_{found}"


def logical_id(kind: str, *names: str) -> str:
    """Return the name as a logical id of CloudFormation: letters and digits."""
    words = re.findall(r"[A-Za-z0-9]+", " ".join(map(plain_name, names)))
    return kind + "".join(word[:1].upper() + word[1:] for word in words)
