"""What all batch operations of SQS have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from melange.drivers.sqs_rules import MAX_BATCH
from melange.server.calls import Parameters
from melange.server.errors import ServiceError, sqs_error

_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


def check_entries(entries: list[Parameters], kind: str) -> None:
    """Raise what SQS answers to a batch that is refused as a whole."""
    if not entries:
        raise sqs_error("EmptyBatchRequest", f"There should be at least one {kind} in the request.")
    if len(entries) > MAX_BATCH:
        raise sqs_error(
            "TooManyEntriesInBatchRequest",
            f"Maximum number of entries per request are {MAX_BATCH}. You have sent {len(entries)}.",
        )
    seen: set[str] = set()
    for entry in entries:
        entry_id = entry.get("Id", "")
        if not _ID.fullmatch(entry_id):
            raise sqs_error(
                "InvalidBatchEntryId",
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at "
                "most 80 letters long.",
            )
        if entry_id in seen:
            raise sqs_error("BatchEntryIdsNotDistinct", f"Id {entry_id} repeated.")
        seen.add(entry_id)


def for_each(entries: list[Parameters], work: Callable[[Parameters], Any]) -> Parameters:
    """Return what became of each entry: the results of ``work``, and the errors that it raised."""
    successful: list[Parameters] = []
    failed: list[Parameters] = []
    for entry in entries:
        try:
            successful.append({"Id": entry["Id"], **(work(entry) or {})})
        except ServiceError as error:
            failed.append(
                {
                    "Id": entry["Id"],
                    "SenderFault": error.status < 500,
                    "Code": error.code,
                    "Message": error.message,
                }
            )
    return {name: results for name, results in (("Successful", successful), ("Failed", failed)) if results}
