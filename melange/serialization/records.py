"""Records: dataclasses and typed dicts as JSON objects, named tuples as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from itertools import count
from typing import Any, NamedTuple

from marshmallow import ValidationError

from melange.events import OCCURRED_ON_KEY, in_utc
from melange.serialization.conversions import TEXT
from melange.serialization.fields import ARRAY, MOST_PROBLEMS, OBJECT, Field, convert_each


class Member(NamedTuple):
    """One field of a dataclass, under ``key`` on the wire.

    ``is_argument``: the constructor takes it; otherwise it is set afterwards.
    """

    name: str
    key: str
    field: Field
    is_required: bool
    is_argument: bool


class DataclassField:
    """A dataclass as an object, within another or as the whole event.

    Exactly that class: of a subclass only the fields known here would be written. Missing fields take the
    dataclass's defaults, and unknown ones are ignored, so that a newer publisher does not break an older consumer.
    Exceptions of the class's constructor are not wrapped.
    """

    shapes = OBJECT

    def __init__(self, dataclass_type: type) -> None:
        self.type = dataclass_type
        self.members: Sequence[Member] = ()
        self.has_post_init = hasattr(dataclass_type, "__post_init__")
        self._has_other_arguments = False

    def complete(self, members: Sequence[Member], *, has_other_arguments: bool) -> None:
        """Set the fields: afterwards, because a dataclass may contain itself.

        ``has_other_arguments`` says that the constructor takes arguments that are not fields and do not travel.
        """
        self.members = members
        self._has_other_arguments = has_other_arguments

    def fields(self) -> Iterator[tuple[str, Field]]:
        """Yield the keys on the wire, each with its field."""
        for member in self.members:
            yield member.key, member.field

    def matches(self, value: Any) -> bool:
        return type(value) is self.type

    def dump(self, value: Any) -> Any:
        if type(value) is not self.type:
            raise ValidationError(f"Must be a {self.type.__name__}.")
        written: dict[str, Any] = {}
        errors: dict[str | int, Any] = {}
        for name, key, field, _, is_argument in self.members:
            try:
                written[key] = field.dump(getattr(value, name))
            except ValidationError as error:
                errors[key] = error.messages
            except AttributeError:
                # A field that the constructor does not take may have no value yet.
                if is_argument:
                    raise
        if errors:
            raise ValidationError(errors)
        return written

    def load(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError(f"Must be a {self.type.__name__}.")
        read = _converted(
            value, ((member.key, member.field.load, member.is_required) for member in self.members)
        )
        arguments: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, key, _, _, is_argument in self.members:
            if key in read:
                (arguments if is_argument else others)[name] = read[key]
        return self.make(arguments, others)

    def make(self, arguments: dict[str, Any], others: dict[str, Any]) -> Any:
        """Return the object of the constructor's ``arguments``, with ``others`` set afterwards."""
        read = _copied(arguments) if self.has_post_init else arguments
        made = self.type(**arguments)
        for name, value in read.items():
            current = getattr(made, name)
            if current is not value and current != value:
                self._undo_changes(made, read)
                break
        for name, value in others.items():
            object.__setattr__(made, name, value)  # frozen dataclasses refuse an assignment
        return made

    def _undo_changes(self, made: Any, read: dict[str, Any]) -> None:
        """Set what was read, if the constructor changed it as it had changed it before it was written.

        A change that the constructor would not make again is kept: it put what others wrote into its usual form.
        """
        if self._has_other_arguments or not self._is_settled(made, read):
            for name, value in read.items():
                object.__setattr__(made, name, value)

    def _is_settled(self, made: Any, read: dict[str, Any]) -> bool:
        settled = {name: getattr(made, name) for name in read}
        try:
            again = self.type(**_copied(settled))
        except Exception:  # the constructor changes the type: its result counts
            return True
        return all(getattr(again, name) == value for name, value in settled.items())


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    """Return copies of what ``__post_init__`` could change in place."""
    return {
        name: copy(value) if isinstance(value, (list, set, dict)) else value for name, value in values.items()
    }


class OccurredOn:
    """The time at which an event was created, in UTC; now, if the publisher did not send one."""

    shapes = TEXT

    def matches(self, value: Any) -> bool:
        return isinstance(value, datetime)

    def dump(self, value: Any) -> Any:
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise ValidationError("Must be an aware datetime.")
        try:
            return value.astimezone(UTC).isoformat()
        except OverflowError as error:
            raise ValidationError("Must be a datetime that UTC has.") from error

    def load(self, value: Any) -> Any:
        if value is None:
            return datetime.now(UTC)
        try:
            return in_utc(datetime.fromisoformat(value))
        except (TypeError, ValueError, OverflowError) as error:
            raise ValidationError("Must be a datetime in ISO 8601.") from error


OCCURRED_ON = Member(OCCURRED_ON_KEY, OCCURRED_ON_KEY, OccurredOn(), is_required=False, is_argument=False)


class Item(NamedTuple):
    """One key of a typed dict."""

    field: Field
    is_required: bool


class TypedDictField:
    """A ``TypedDict`` as an object. Unknown keys are refused when it is written, and ignored when it is read."""

    shapes = OBJECT

    def __init__(self, name: str) -> None:
        self.name = name
        self.items: Mapping[str, Item] = {}

    def fields(self) -> Iterator[tuple[str, Field]]:
        """Yield the keys, each with its field."""
        for key, item in self.items.items():
            yield key, item.field

    def matches(self, value: Any) -> bool:
        return isinstance(value, dict)

    def dump(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError(f"Must be a {self.name}.")
        if not value.keys() <= self.items.keys():
            raise ValidationError(f"Must not have keys that a {self.name} does not have.")
        return _converted(
            value, ((key, item.field.dump, item.is_required) for key, item in self.items.items())
        )

    def load(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValidationError(f"Must be a {self.name}.")
        return _converted(
            value, ((key, item.field.load, item.is_required) for key, item in self.items.items())
        )


class NamedTupleField:
    """A ``NamedTuple`` as an array.

    The last items may be missing if they have defaults, and items after the last are ignored, so that either side may
    get a new one first.
    """

    shapes = ARRAY

    def __init__(self, named_tuple: type[tuple[Any, ...]]) -> None:
        self.type = named_tuple
        self.items: Sequence[Field] = ()
        self.required = 0

    def matches(self, value: Any) -> bool:
        return type(value) is self.type

    def dump(self, value: Any) -> Any:
        if type(value) is not self.type:
            raise ValidationError(f"Must be a {self.type.__name__}.")
        return convert_each(count(), [item.dump for item in self.items], value)

    def load(self, value: Any) -> Any:
        if not isinstance(value, list) or len(value) < self.required:
            raise ValidationError(f"Must be a list of {len(self.items)}.")
        return self.type(*convert_each(count(), [item.load for item in self.items], value))


def _converted(
    value: Mapping[str, Any], members: Iterable[tuple[str, Callable[[Any], Any], bool]]
) -> dict[str, Any]:
    """Return what the object has of these members, each converted; errors are reported under their keys.

    A member is its key, the function for its value, and whether it is required.
    """
    converted: dict[str, Any] = {}
    errors: dict[str | int, Any] = {}
    for key, convert, is_required in members:
        if key in value:
            try:
                converted[key] = convert(value[key])
            except ValidationError as error:
                errors[key] = error.messages
        elif is_required:
            errors[key] = ["Missing data for required field."]
        if len(errors) > MOST_PROBLEMS:
            break
    if errors:
        raise ValidationError(errors)
    return converted
