"""The short form of the chaos runs; the long one is ``tox -e chaos``."""

from __future__ import annotations

import pytest

from chaos.control import Control
from chaos.controls import CONTROLS
from chaos.inside.controls import CONTROLS as INSIDE_CONTROLS
from chaos.inside.controls import InsideControl
from chaos.rows import ROWS, run_row
from chaos.scene import Services

SEED = 1


@pytest.mark.parametrize("name", ROWS)
def test_nothing_that_is_promised_breaks(services: Services, name: str) -> None:
    result = run_row(ROWS[name], services, SEED, short=True)

    assert result.complaints() == []


@pytest.mark.parametrize("control", [*CONTROLS, *INSIDE_CONTROLS], ids=lambda control: control.sabotage)
def test_a_worker_that_is_broken_on_purpose_is_caught(
    services: Services, control: Control | InsideControl
) -> None:
    # A busy machine may explain by itself what a control does: leases expire, and copies run for that reason.
    assert any(control.is_caught(services) for _ in range(3))
