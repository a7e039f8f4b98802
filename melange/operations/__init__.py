"""Operating what runs: dead letters, from a program or a test; ``melange dead-letters`` is the same from the shell."""

from melange.operations.browsing import NotDone, Report
from melange.operations.dead_letters import DeadLetters
from melange.operations.json_lines import export_line, exported_letters, import_lines, imported
from melange.operations.model import DeadLetter, Group
from melange.operations.selection import Selection

__all__ = [
    "DeadLetter",
    "DeadLetters",
    "Group",
    "NotDone",
    "Report",
    "Selection",
    "export_line",
    "exported_letters",
    "import_lines",
    "imported",
]
