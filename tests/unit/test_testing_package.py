"""What ``melange.testing`` offers, and what importing it costs."""

import subprocess
import sys

import pytest

import melange.testing


@pytest.mark.parametrize("name", melange.testing.__all__)
def test_each_name_it_lists_is_there(name):
    assert getattr(melange.testing, name).__name__ == name


def test_a_name_it_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="DriverContrakt"):
        _ = melange.testing.DriverContrakt


def test_importing_it_needs_no_pytest():
    program = "import sys; sys.modules['pytest'] = None; from melange.testing import ManualClock"

    subprocess.run([sys.executable, "-c", program], check=True)
