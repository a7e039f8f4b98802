"""Where the bodies of large events are kept: the protocol, and two stores for laptops and tests."""

from __future__ import annotations

import hashlib
from collections.abc import MutableMapping
from pathlib import Path
from typing import Protocol


class PayloadMissingError(Exception):
    """There is no such payload, and there will be none."""


class PayloadStore(Protocol):
    """Keeps payloads under keys. All methods are thread-safe, may block, and raise ``MelangeError`` when they fail.

    ``bucket`` is the name under which pointers find this store's payloads.
    """

    @property
    def bucket(self) -> str:
        """The bucket into which ``put`` writes."""
        ...

    def put(self, key: str, payload: bytes) -> None:
        """Keep the payload under the key, and replace what is there. Return when it is safe."""
        ...

    def get(self, bucket: str, key: str, max_bytes: int) -> bytes:
        """Return the payload, or at least the first ``max_bytes`` + 1 bytes of a larger one.

        ``key`` comes from a message, which a stranger may have sent.

        Raises:
            PayloadMissingError: there is no such payload. Other errors mean that a later try may succeed.
        """
        ...

    def delete(self, bucket: str, key: str) -> None:
        """Remove the payload, if it exists."""
        ...


class MemoryStore:
    """Keeps payloads in the dict ``payloads``, a new one or yours; for tests, in one process. Thread-safe."""

    def __init__(self, payloads: MutableMapping[tuple[str, str], bytes] | None = None) -> None:
        self.bucket = "memory"
        self.payloads = {} if payloads is None else payloads

    def put(self, key: str, payload: bytes) -> None:
        self.payloads[self.bucket, key] = payload

    def get(self, bucket: str, key: str, max_bytes: int) -> bytes:
        try:
            return self.payloads[bucket, key]
        except KeyError as error:
            raise PayloadMissingError from error

    def delete(self, bucket: str, key: str) -> None:
        self.payloads.pop((bucket, key), None)


class DirectoryStore:
    """Payloads as files in a directory, shared by the processes of one machine.

    A file's name is a digest of its key, so that no key leads out of the directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        self.bucket = self._directory.name or "directory"

    def put(self, key: str, payload: bytes) -> None:
        path = self._path(self.bucket, key)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(payload)
        unfinished.replace(path)

    def get(self, bucket: str, key: str, max_bytes: int) -> bytes:
        try:
            with self._path(bucket, key).open("rb") as file:
                return file.read(max_bytes + 1)
        except FileNotFoundError as error:
            raise PayloadMissingError from error

    def delete(self, bucket: str, key: str) -> None:
        self._path(bucket, key).unlink(missing_ok=True)

    def _path(self, bucket: str, key: str) -> Path:
        return self._directory / hashlib.sha256(f"{bucket} {key}".encode(errors="replace")).hexdigest()
