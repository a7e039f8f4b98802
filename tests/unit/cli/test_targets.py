"""What ``package.module:attribute`` may stand for, and what is said when it does not."""

import pytest

from melange import ConfigurationError, DriverConnectionError
from melange.cli.targets import load_worker

SHOP = """
from melange import ExchangeListener, ExchangeMessageConsumer, Worker
from melange.drivers.memory import InMemoryDriver

driver = InMemoryDriver()

def consumer(queue_name):
    consumer = ExchangeMessageConsumer(queue_name, "products", driver=driver)
    consumer.listener("ProductAdded", name=f"{queue_name}-listener")(print)
    return consumer

stock, audit = consumer("stock"), consumer("audit")
both = (stock, audit)
worker = Worker(stock, concurrency=3)

def one(): return stock
def several(): return [stock, audit]
def ready(): return worker
def nothing(): return None
def for_queue(name): return stock
def failing(): raise ValueError("no such shop")
def mixed(): return [stock, "audit"]
"""


@pytest.fixture(autouse=True)
def shop(write):
    write("shop.py", SHOP)


@pytest.mark.parametrize(
    ("attribute", "queue_names"),
    [
        ("stock", ["stock"]),
        ("both", ["stock", "audit"]),
        ("worker", ["stock"]),
        ("one", ["stock"]),
        ("several", ["stock", "audit"]),
        ("ready", ["stock"]),
    ],
)
def test_consumers_workers_and_functions_that_return_them_can_be_run(attribute, queue_names) -> None:
    worker = load_worker(f"shop:{attribute}")

    assert [queue.queue_name for queue in worker.health().queues] == queue_names


def test_a_module_in_a_package_is_found_from_the_working_directory(write) -> None:
    write("company/__init__.py", "")
    write("company/shop.py", SHOP)

    worker = load_worker("company.shop:stock")

    assert [queue.queue_name for queue in worker.health().queues] == ["stock"]


@pytest.mark.parametrize(
    "target", ["shop", "shop:", ":stock", "shop.py:stock", "src/shop:stock", "", "a b:c"]
)
def test_a_target_of_another_form_is_refused_with_the_form(target) -> None:
    with pytest.raises(ConfigurationError, match=r"write package\.module:attribute"):
        load_worker(target)


@pytest.mark.parametrize(("target", "missing"), [("shp:stock", "shp"), ("shp.consumers:stock", "shp")])
def test_a_module_that_is_not_there_is_named(target, missing) -> None:
    with pytest.raises(ConfigurationError, match=f"there is no module {missing}:") as caught:
        load_worker(target)

    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("program", "error_type"),
    [
        ("import nowhere_to_be_found", ModuleNotFoundError),
        ("from shop import nowhere_to_be_found", ImportError),
        ("1 / 0", ZeroDivisionError),
        ("def broken(:", SyntaxError),
        ("raise SystemExit(0)", SystemExit),
    ],
)
def test_what_a_module_raises_is_kept_as_the_cause(write, program, error_type) -> None:
    write("broken.py", program)

    with pytest.raises(ConfigurationError, match="importing broken failed") as caught:
        load_worker("broken:stock")

    assert isinstance(caught.value.__cause__, error_type)


def test_what_a_function_raises_is_kept_as_the_cause() -> None:
    with pytest.raises(ConfigurationError, match="calling shop:failing failed with ValueError") as caught:
        load_worker("shop:failing")

    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("place", ["module", "function"])
def test_a_broker_out_of_reach_is_no_mistake_of_configuration(write, place) -> None:
    failing = "from melange import DriverConnectionError\n{}raise DriverConnectionError('away')\n"
    write("away.py", failing.format("" if place == "module" else "def stock(): "))

    with pytest.raises(DriverConnectionError, match="away"):
        load_worker("away:stock")


def test_a_missing_attribute_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigurationError, match=r"no attribute 'stok' .*'stock'"):
        load_worker("shop:stok")


@pytest.mark.parametrize(
    ("attribute", "found"),
    [
        ("driver", "is of type InMemoryDriver"),
        ("ExchangeListener", "is the class ExchangeListener"),
        ("nothing", "is of type NoneType"),
        ("mixed", "holds of type str"),
    ],
)
def test_anything_else_is_refused_with_what_it_is(attribute, found) -> None:
    with pytest.raises(ConfigurationError, match=f"shop:{attribute} {found}, and should be a Worker"):
        load_worker(f"shop:{attribute}")


def test_a_function_with_arguments_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"called without arguments: missing .* 'name'"):
        load_worker("shop:for_queue")


def test_numbers_for_a_worker_that_has_its_own_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="brings its own concurrency and grace_seconds"):
        load_worker("shop:worker", concurrency=2, grace_seconds=3)


def test_less_concurrency_than_queues_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 2"):
        load_worker("shop:both", concurrency=1)
