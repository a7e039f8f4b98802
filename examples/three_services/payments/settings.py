"""The settings of the project."""

from __future__ import annotations

import os
from pathlib import Path

DIRECTORY = Path(os.environ.get("PAYMENTS_DIRECTORY", "."))

SECRET_KEY = "an example, with no sessions to protect"  # noqa: S105
USE_TZ = True
INSTALLED_APPS = ["melange.django", "three_services.payments"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DIRECTORY / "payments.db",
        "OPTIONS": {"timeout": 30},
        "TEST": {"NAME": DIRECTORY / "payments-test.db"},  # a file: the relay has a connection of its own
    }
}
MELANGE = {"DRIVER": "aws", "CONSUMERS": ["three_services.payments.consumers.make_consumer"]}
