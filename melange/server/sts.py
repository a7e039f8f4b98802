"""STS, as far as clients ask for their identity."""

from __future__ import annotations

from melange.server.calls import Call, Operation, Parameters


def get_caller_identity(call: Call) -> Parameters:
    return {
        "UserId": call.caller.user_id,
        "Account": call.account,
        "Arn": f"arn:aws:iam::{call.account}:root",
    }


OPERATIONS: dict[str, Operation] = {"GetCallerIdentity": get_caller_identity}
