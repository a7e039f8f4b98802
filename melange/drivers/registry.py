"""The registry of drivers: names to lazily imported drivers, and the one in use."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

from melange.drivers.base import MessagingDriver
from melange.errors import ConfigurationError, NoDriverError, UnknownDriverError, nearest
from melange.middleware import Middleware, checked_middleware

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "melange.drivers"

_BUILT_IN = {"memory": "melange.drivers.memory:InMemoryDriver", "aws": "melange.drivers.aws:AwsDriver"}

DriverFactory = Callable[..., MessagingDriver]


class DriverManager:
    """Finds drivers by name and holds the one that publishers and consumers use by default.

    ``DriverManager.instance()`` is shared by the process. Publishers and consumers with ``driver=`` do not
    use it. Thread-safe.
    """

    _instance: ClassVar[DriverManager | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._added: dict[str, DriverFactory] = {}
        self._driver: MessagingDriver | None = None
        self._override: MessagingDriver | None = None
        self._prepared: tuple[str, Sequence[Middleware], Mapping[str, Any]] | None = None
        self._making = threading.Lock()

    @classmethod
    def instance(cls) -> Self:
        """Return the process-wide manager."""
        with DriverManager._instance_lock:
            if cls._instance is None:
                cls._instance = cls()
            assert isinstance(cls._instance, cls)
            return cls._instance

    def add_available_drivers(self, **drivers: DriverFactory) -> None:
        """Register drivers by name: classes, or functions that return a ``MessagingDriver``.

        A name given here takes precedence over melange's own drivers and those of installed packages.
        """
        for name, factory in drivers.items():
            if not callable(factory):
                raise ConfigurationError(
                    f"the driver {name!r} must be a class or function that makes a driver, not {factory!r}"
                )
        with self._lock:
            self._added.update(drivers)

    def use_driver(
        self,
        driver: MessagingDriver | None = None,
        driver_name: str | None = None,
        *,
        middleware: Sequence[Middleware] | None = None,
        **options: Any,
    ) -> MessagingDriver:
        """Set the driver of all publishers and consumers without ``driver=``; return it.

        Pass a driver object, or a name with the options of its constructor. ``middleware`` are the hooks around
        everything that publishes and consumes through the driver. The previous driver stays open, since consumers may
        still use it: close it when they are done. Inside of ``overriding`` the overriding
        driver stays in use and is returned.

        Raises:
            UnknownDriverError: no driver has this name.
            ConfigurationError: both or neither were given, or an option is unknown.
        """
        if driver_name is not None and not isinstance(driver_name, str):
            raise ConfigurationError(f"driver_name= takes the name of a driver, not {driver_name!r}")
        if (driver is None) == (driver_name is None):
            raise ConfigurationError(
                "say which driver: either use_driver(driver_name='memory') or use_driver(driver)"
            )
        if self._override is not None:
            if middleware is not None:
                self._override.middleware = checked_middleware(middleware)
            return self._override
        if driver is None:
            assert driver_name is not None
            driver = self._make(driver_name, options)
        elif options:
            raise ConfigurationError(
                f"the options {sorted(options)} go with driver_name=; a driver object has its own already"
            )
        require_driver(driver)
        if middleware is not None:
            driver.middleware = checked_middleware(middleware)
        with self._lock:
            self._driver, self._prepared = driver, None
        return driver

    def prepare_driver(
        self, driver_name: str, *, middleware: Sequence[Middleware] = (), **options: Any
    ) -> None:
        """Choose the driver as ``use_driver`` does, and create it when ``get_driver`` first needs it.

        For frameworks that are set up in programs without messaging too, where credentials or a region may be missing.

        Raises:
            UnknownDriverError: no driver has this name.
        """
        middleware = checked_middleware(middleware)
        if self._override is not None:
            self._override.middleware = middleware
            return
        self._require_known(driver_name)
        with self._lock:
            self._driver, self._prepared = None, (driver_name, middleware, options)

    def get_driver(self) -> MessagingDriver:
        """Return the driver in use.

        Raises:
            NoDriverError: no driver was chosen.
            ConfigurationError: the driver of ``prepare_driver`` cannot be created.
        """
        driver = self._override or self._driver or self._made_as_prepared()
        if driver is None:
            raise NoDriverError
        return driver

    @property
    def middleware(self) -> Sequence[Middleware]:
        """The hooks of the driver in use, ``()`` if there is none. Creates no driver."""
        driver, prepared = self._override or self._driver, self._prepared
        if driver is not None:
            return driver.middleware
        return prepared[1] if prepared is not None else ()

    @contextmanager
    def overriding(self, driver: MessagingDriver) -> Iterator[None]:
        """Make ``driver`` the driver in use for a ``with`` block, whatever ``use_driver`` says in it. For tests.

        Afterwards the driver from before is in use again. It is for the whole process, all threads included.
        """
        require_driver(driver)
        with self._lock:
            outer, self._override = self._override, driver
        try:
            yield
        finally:
            with self._lock:
                self._override = outer

    def _made_as_prepared(self) -> MessagingDriver | None:
        with self._making:
            if self._driver is None and self._prepared is not None:
                driver_name, middleware, options = self._prepared
                self.use_driver(driver_name=driver_name, middleware=middleware, **options)
            return self._driver

    def _make(self, driver_name: str, options: Mapping[str, Any]) -> MessagingDriver:
        factory = self._find(driver_name)
        _check_options(driver_name, factory, options)
        return factory(**options)

    def _find(self, driver_name: str) -> DriverFactory:
        found = self._require_known(driver_name)
        return found if callable(found) else _load(found)

    def _require_known(self, driver_name: str) -> DriverFactory | EntryPoint:
        with self._lock:
            added = dict(self._added)
        if driver_name in added:
            return added[driver_name]
        available = _entry_points()
        if driver_name not in available:
            raise UnknownDriverError(driver_name, {*added, *available})
        return available[driver_name]


def _entry_points() -> dict[str, EntryPoint]:
    """Return the drivers of installed packages and our own, by name."""
    # Imported when a driver is chosen: it takes a quarter of the time to import melange, without marshmallow.
    from importlib.metadata import EntryPoint, entry_points  # noqa: PLC0415

    # Our own names take precedence over installed ones, so that no package can silently replace "aws".
    own = [EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in _BUILT_IN.items()]
    return {point.name: point for point in (*entry_points(group=ENTRY_POINT_GROUP), *own)}


def _load(entry_point: EntryPoint) -> DriverFactory:
    try:
        factory: DriverFactory = entry_point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the driver {entry_point.name!r} could not be imported from {entry_point.value!r}: {error}"
        ) from error
    return factory


def _check_options(driver_name: str, factory: DriverFactory, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            known = ", ".join(parameters) or "none"
            raise ConfigurationError(
                f"the driver {driver_name!r} has no option {option!r}{nearest(option, parameters)}; its options: {known}"
            )


def require_driver(driver: object) -> None:
    """Raise ``ConfigurationError`` unless ``driver`` is a driver, or None."""
    if not isinstance(driver, (MessagingDriver, type(None))):
        raise ConfigurationError(f"{driver!r} is not a MessagingDriver; pass a name as driver_name=")
