"""The app's configuration."""

from __future__ import annotations

from django.apps import AppConfig

from melange.django.configuration import Configuration
from melange.drivers.registry import DriverManager


class MelangeConfig(AppConfig):
    """Chooses the driver that the setting ``MELANGE`` names; it is created when it is first used."""

    name = "melange.django"
    label = "melange"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from melange.django.middleware import DjangoListeners  # noqa: PLC0415 - it needs the models

        configuration = Configuration.of_project()
        if configuration.driver is not None:
            # Commands such as migrate run where no region or credentials are set.
            DriverManager.instance().prepare_driver(
                configuration.driver,
                middleware=[*configuration.made_middleware(), DjangoListeners()],
                **configuration.driver_options,
            )
