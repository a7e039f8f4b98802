"""The runs: one file for each kind of fault. ``ROWS`` names them, with their full and their short size."""

from __future__ import annotations

from chaos.rows.catalogue import ROWS, Row, run_row

__all__ = ["ROWS", "Row", "run_row"]
