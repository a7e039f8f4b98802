"""Amazon resource names, as far as topics and queues need them."""

from __future__ import annotations

from dataclasses import dataclass

from melange.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Arn:
    """``arn:partition:service:region:account:name`` of a topic or a queue."""

    partition: str
    service: str
    region: str
    account: str
    name: str

    def __str__(self) -> str:
        return f"arn:{self.partition}:{self.service}:{self.region}:{self.account}:{self.name}"


def is_arn(name: object) -> bool:
    """Tell whether ``name`` is meant as an ARN: no plain name has a colon."""
    return isinstance(name, str) and name.startswith("arn:")


def parse_arn(text: str, service: str) -> Arn:
    """Return the parts of the ARN of a topic (``service="sns"``) or a queue (``"sqs"``).

    Raises:
        ConfigurationError: it is not such an ARN.
    """
    parts = text.split(":")
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != service or not all(parts):
        raise ConfigurationError(
            f"{text!r} is no ARN of a {'topic' if service == 'sns' else 'queue'}; one looks like "
            f"arn:aws:{service}:eu-west-1:123456789012:name"
        )
    return Arn(*parts[1:])
