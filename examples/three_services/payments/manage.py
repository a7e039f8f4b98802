"""The commands of the project: ``migrate``, ``melange_worker``, ``melange_outbox``, ``test``."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "three_services.payments.settings")
    execute_from_command_line(sys.argv)
