"""The settings of the project."""

from __future__ import annotations

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "for development only")
ALLOWED_HOSTS = ["127.0.0.1"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE", "shop.db"),
        # A transaction that reads first must not fail when it writes.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30},
    }
}
INSTALLED_APPS = ["melange.django", "orders"]
MIDDLEWARE = ["melange.django.middleware.domain_events"]
ROOT_URLCONF = "project.urls"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

MELANGE = {
    "DRIVER": os.environ.get("DRIVER", "memory"),  # "aws" in production
    "CONSUMERS": ["orders.consumers.make_consumer"],
    "GROUPS": ["orders.events.mailing", "orders.events.integration"],
}
