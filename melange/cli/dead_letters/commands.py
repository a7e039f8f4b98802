"""All commands for dead letters."""

from melange.cli.dead_letters.changing import import_command, move, remove, retry
from melange.cli.dead_letters.looking import export, list_command, show

COMMANDS = (list_command, show, retry, remove, export, import_command, move)
