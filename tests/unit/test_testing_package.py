"""What ``melange.testing`` offers, and what importing it costs."""

import subprocess
import sys
from collections import Counter

import pytest

import melange.testing
from melange.testing import DeduplicationStoreContract, DriverContract, TransactionalStoreContract


@pytest.mark.parametrize("name", melange.testing.__all__)
def test_each_name_it_lists_is_there(name):
    assert getattr(melange.testing, name).__name__ == name


def test_a_name_it_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="DriverContrakt"):
        _ = melange.testing.DriverContrakt


def test_importing_it_needs_no_pytest():
    program = "import sys; sys.modules['pytest'] = None; from melange.testing import ManualClock"

    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("suite", [DriverContract, DeduplicationStoreContract, TransactionalStoreContract])
def test_no_part_of_a_suite_hides_a_test_of_another_part(suite):
    tests = Counter(name for part in suite.__mro__ for name in vars(part) if name.startswith("test_"))

    assert [name for name, parts in tests.items() if parts > 1] == []
