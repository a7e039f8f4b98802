"""Events as pydantic models, in the extra ``melange[pydantic]``: ``EventModel`` is their base class."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar

from melange.errors import ConfigurationError

try:
    from pydantic import AfterValidator, BaseModel, Field
except ImportError as error:
    raise ConfigurationError(
        "melange.pydantic needs pydantic: pip install '.[pydantic]' in a checkout of melange"
    ) from error

from melange.events import EventMessage, in_utc


def _now() -> datetime:
    return datetime.now(UTC)


class EventModel(EventMessage, BaseModel):
    """The base of events that are pydantic models, with pydantic's validation in both directions.

        class ProductAdded(EventModel):
            product_id: int
            name: str = Field(min_length=1)

    On the wire it is what ``model_dump(mode="json", by_alias=True)`` returns. ``occurred_on`` is a field, so it takes
    part in comparisons, unlike that of a dataclass. The messages of validators are in logs and dead letters: keep values
    out of them.
    """

    event_type_name: ClassVar[str] = "EventModel"
    event_version: ClassVar[int] = 1

    occurred_on: Annotated[datetime, AfterValidator(in_utc)] = Field(default_factory=_now)
