"""Which environment variables of a Jupyter server reach a guest: none but those named here."""

import fnmatch
from collections.abc import Iterable, Mapping

#: Locale, time zone, terminal size, how tracebacks name cells, and what nbgrader and papermill tell the code they run.
ALLOWED = ("LANG", "LC_*", "TZ", "COLUMNS", "LINES", "IPYKERNEL_CELL_NAME", "NBGRADER_EXECUTION", "PAPERMILL_*")


def select_environment(env: Mapping[str, str], spec_env: Iterable[str], allowed: Iterable[str]) -> tuple[str, ...]:
    """The entries ``NAME=value`` that may enter a guest, sorted.

    :param env: everything the server passes on.
    :param spec_env: names that the kernelspec sets itself.
    :param allowed: further names, as shell patterns.
    """
    # SECURITY: default deny. The server's environment holds hub tokens and cloud keys.
    patterns = (*ALLOWED, *spec_env, *allowed)
    return tuple(
        f"{name}={value}"
        for name, value in sorted(env.items())
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    )
