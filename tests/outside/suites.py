"""The suites: which packages' tests are aimed at our kernels, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Every kernelspec that names no provisioner runs in a sandbox: the suites ask for ``python3``, and get ours.
AIMED = {"JUPYTER_DEFAULT_PROVISIONER_NAME": "hyper-provisioner"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Somebody else's tests.

    :param name: as in the README's list of known failures.
    :param sdist: ``package==version`` whose source distribution carries the tests; empty: ``paths`` are of this folder.
    :param paths: what pytest is given, relative to the unpacked source distribution.
    :param args: further arguments of pytest.
    :param env: added to the environment.
    :param budget_s: the longest that the whole suite may take, in seconds.
    """

    name: str
    paths: tuple[str, ...]
    sdist: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: AIMED)
    budget_s: int = 3600


SUITES = (
    Suite(name="jupyter_kernel_test", paths=("kernel_messages.py",), env={}, budget_s=600),
    Suite(name="CPython's executors", paths=("executor_calls.py",), env={}, budget_s=1200),
    Suite(
        name="nbval",
        sdist="nbval==0.11.0",
        paths=("tests",),
        args=(
            *("--ignore", "tests/test_nbdime_reporter.py"),  # of a viewer of differences: no kernel is started
            *("-k", "not latex"),  # two notebooks that import sympy, which the image does not hold
        ),
        budget_s=600,
    ),
    Suite(name="nbclient", sdist="nbclient==0.11.0", paths=("tests/test_client.py",)),
    Suite(
        name="papermill",
        sdist="papermill==2.7.0",
        paths=tuple(
            f"papermill/tests/test_{part}.py" for part in ("execute", "engines", "cli", "autosave", "clientwrap")
        ),
    ),
    Suite(
        name="ipykernel",
        sdist="ipykernel==7.4.0",
        paths=(
            "tests/test_message_spec.py",
            "tests/test_kernel.py",
            "tests/test_debugger.py",
            "tests/test_subshells.py",
            "tests/test_async.py",
        ),
    ),
    Suite(
        name="jupyter_server",
        sdist="jupyter_server==2.21.1",
        paths=("tests/services/kernels", "tests/services/sessions"),
    ),
)
