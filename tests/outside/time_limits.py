"""A pytest plugin: the limits that suites put on single tests are made for kernels that start in half a second.

Where machines are emulated in software a kernel takes 6 to 10 s and longer when the host is busy, so each limit grows.
What a test itself measures or waits for stays as it is.
"""

import pytest

FACTOR = 20


def pytest_collection_modifyitems(items):
    for item in items:
        if mark := item.get_closest_marker("timeout"):
            limit_s = mark.args[0] if mark.args else mark.kwargs["timeout"]
            item.add_marker(pytest.mark.timeout(limit_s * FACTOR, method="signal"), append=False)
