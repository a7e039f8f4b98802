"""Interrupts code wherever the interpreter could let a signal in, one place after the other."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

_INTERRUPTED_PACKAGES = ("melange.drivers.memory.", "melange.engine.")


class Interruption:
    """Raises KeyboardInterrupt at one place of the in-memory driver's code.

    CPython raises what a signal handler raises after calls, when a function begins, and when a loop jumps back. A
    trace function sees each instruction and does the same at the place number ``place``, counted from 0.
    """

    def __init__(self, place: int) -> None:
        self.has_struck = False
        self._places_left = place
        self._previous: dict[FrameType, int] = {}

    def strike(self, operation: Callable[[], Any]) -> None:
        """Run the operation and interrupt it; swallow the interrupt."""
        before = sys.gettrace()
        # From Python 3.12 on, instructions are traced only if a frame has asked for them before.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._trace_call)
        try:
            operation()
        except KeyboardInterrupt:
            assert self.has_struck
        finally:
            sys.settrace(before)
            self._previous.clear()

    def _trace_call(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_globals.get("__name__", "").startswith(_INTERRUPTED_PACKAGES):
            return None
        frame.f_trace = self._trace_instruction  # Python 3.13 looks for it when instructions are asked for
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._trace_instruction

    def _trace_instruction(self, frame: FrameType, event: str, argument: object) -> Any:
        if event != "opcode":
            return self._trace_instruction
        offset = frame.f_lasti
        previous = self._previous.get(frame)
        self._previous[frame] = offset
        begins = previous is None
        if not self.has_struck and (begins or _lets_signals_in(frame.f_code, previous, offset)):
            if not self._places_left:
                self.has_struck = True
                raise KeyboardInterrupt
            self._places_left -= 1
        return self._trace_instruction


def _lets_signals_in(code: CodeType, previous: int, offset: int) -> bool:
    names, handlers = _instructions(code)
    name = names[previous]
    if name.startswith("CALL"):
        # After the last call of a "with" block the trace function sees the way out of the block, where it is too late
        # to run its end. The interpreter raises at the call itself.
        return handlers.get(previous) == handlers.get(offset)
    return "JUMP_BACKWARD" in name and offset < previous


@functools.cache
def _instructions(code: CodeType) -> tuple[dict[int, str], dict[int, int]]:
    """Return the names of the instructions, and the exception handlers of those that have one, by offset."""
    names = {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}
    handlers = {
        offset: entry.target
        for entry in reversed(dis._parse_exception_table(code))  # type: ignore[attr-defined]
        for offset in range(entry.start, entry.end, 2)
    }
    return names, handlers
