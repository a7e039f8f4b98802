"""A day in the shop, both services in this process: in memory, or with ``--driver aws`` on SNS and SQS."""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from melange import DriverManager
from shop.orders import listeners as orders
from shop.orders.database import open_orders
from shop.running import running
from shop.story import a_day_in_the_shop
from shop.warehouse import listeners as warehouse
from shop.warehouse.database import open_warehouse


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shop", description=__doc__)
    parser.add_argument("--driver", choices=["memory", "aws"], default="memory")
    arguments = parser.parse_args()

    DriverManager.instance().use_driver(driver_name=arguments.driver)
    with (
        TemporaryDirectory() as directory,
        running(open_orders(Path(directory)), orders.make_consumer()),
        running(open_warehouse(Path(directory)), warehouse.make_consumer()),
    ):
        a_day_in_the_shop()


if __name__ == "__main__":
    main()
