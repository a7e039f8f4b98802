"""Very many messages through one worker: does it grow?"""

from __future__ import annotations

import json
import subprocess
import sys

from chaos.checker import Findings
from chaos.processes import tests_environment
from chaos.rows.result import RowResult
from chaos.scene import Services

GROWTH_ALLOWED_BYTES = 8_000_000


def soak(services: Services, _seed: int, *, messages: int) -> RowResult:
    """Measure the memory after a tenth of the messages and at the end, threads and files at start and end."""
    services.tell(f"soak: {messages:,} messages in memory")
    finished = subprocess.run(
        [sys.executable, "-m", "chaos.soaking", str(messages)],
        env=tests_environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    measured = json.loads(finished.stdout)
    growth = measured["bytes at the end"] - measured["bytes after a tenth"]
    wrong = [
        f"{what}: {after - before:+,}"
        for what, before, after in (
            ("threads", measured["threads"], measured["threads at the end"]),
            ("files", measured["files"], measured["files at the end"]),
        )
        if after != before
    ]
    if growth > GROWTH_ALLOWED_BYTES:
        wrong.append(f"memory grew by {growth:,} bytes")
    lost = messages - measured["effects"]
    return RowResult(
        load=f"{messages:,} messages on the in-memory driver",
        findings=Findings(lost=[("", "")] * lost),
        measured={
            "memory": f"{measured['bytes after a tenth'] / 1e6:.1f} MB after a tenth, {growth / 1e6:+.1f} MB then",
            "threads": f"{measured['threads']} before, {measured['threads at the end']} after",
            "files": f"{measured['files']} before, {measured['files at the end']} after",
            "messages a second": round(messages / measured["seconds"]),
        },
        wrong=wrong,
    )
