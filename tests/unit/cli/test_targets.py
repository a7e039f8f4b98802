"""What ``package.module:attribute`` may stand for, and what is said when it does not."""

import pytest

from melange import ConfigurationError, MelangeError
from melange.cli.failures import TargetError
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
async def asynchronous(): return stock

class Application:
    consumer = stock
    def consumers(self): return [stock, audit]

class Factory:
    def __call__(self): return stock

application, factory, empty = Application(), Factory(), []
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
        ("factory", ["stock"]),
        ("application.consumer", ["stock"]),
        ("application.consumers", ["stock", "audit"]),
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
    "target",
    [
        "shop",
        "shop:",
        ":stock",
        "shop.py:stock",
        "src/shop:stock",
        "",
        "a b:c",
        "shop:a b",
        "shop:stock.",
        ".shop:stock",
        "shop:stock()",
    ],
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
        ("class Unusual(BaseException): pass\nraise Unusual", BaseException),
    ],
)
def test_what_a_module_raises_is_kept_as_the_cause(write, program, error_type) -> None:
    write("broken.py", program)

    with pytest.raises(TargetError, match="importing broken failed") as caught:
        load_worker("broken:stock")

    assert isinstance(caught.value.__cause__, error_type)


def test_what_a_function_raises_is_kept_as_the_cause() -> None:
    with pytest.raises(TargetError, match="calling shop:failing failed with ValueError") as caught:
        load_worker("shop:failing")

    assert isinstance(caught.value.__cause__, ValueError)


def test_a_module_that_ends_the_program_is_not_taken_for_a_stop(write) -> None:
    write("runs.py", "raise SystemExit(0)")

    with pytest.raises(TargetError, match=r"sys\.exit\(0\): name a module that only defines"):
        load_worker("runs:stock")


def test_an_interrupt_of_the_operator_is_none_of_the_programs_failures(write) -> None:
    write("interrupted.py", "raise KeyboardInterrupt")

    with pytest.raises(KeyboardInterrupt):
        load_worker("interrupted:stock")


@pytest.mark.parametrize("place", ["module", "function"])
@pytest.mark.parametrize(
    "name", ["AccessDeniedError", "DeduplicationError", "DriverConnectionError", "OutboxError"]
)
def test_what_is_unavailable_is_said_in_the_words_of_its_error(write, name, place) -> None:
    failing = f"from melange.errors import {name}\n{{}}raise {name}('unavailable')\n"
    write("failing.py", failing.format("" if place == "module" else "def stock(): "))

    with pytest.raises(MelangeError, match=r"^unavailable$"):
        load_worker("failing:stock")


def test_a_missing_attribute_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigurationError, match=r"no attribute 'stok' .*'stock'"):
        load_worker("shop:stok")


def test_a_missing_attribute_of_an_attribute_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"application has no attribute 'consumer_' .*'consumer'"):
        load_worker("shop:application.consumer_")


def test_what_looking_for_an_attribute_raises_is_the_programs_failure(write) -> None:
    write("lazy.py", "def __getattr__(name): raise OSError(name)")

    with pytest.raises(TargetError, match="looking for stock in module lazy failed with OSError"):
        load_worker("lazy:stock")


def test_a_working_directory_that_was_deleted_is_named(tmp_path, monkeypatch) -> None:
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()

    with pytest.raises(ConfigurationError, match="the working directory was deleted"):
        load_worker("shop:stock")


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


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="shop:empty is empty"):
        load_worker("shop:empty")


def test_an_asynchronous_function_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="shop:asynchronous is asynchronous: name a plain function"):
        load_worker("shop:asynchronous")


def test_a_function_with_arguments_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"called without arguments: missing .* 'name'"):
        load_worker("shop:for_queue")


def test_numbers_for_a_worker_that_has_its_own_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="brings its own concurrency and grace_seconds"):
        load_worker("shop:worker", concurrency=2, grace_seconds=3)


def test_less_concurrency_than_queues_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 2"):
        load_worker("shop:both", concurrency=1)
