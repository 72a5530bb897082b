"""A function over many values, each in a sandbox."""

import importlib
import itertools
from collections.abc import Callable, Iterable, Sized
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from hyper_kernel.errors import RequestError
from hyper_kernel.executor.executor import AT_ONCE, HyperExecutor


def map(
    fn: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    n: int = AT_ONCE,
    progress: bool = False,
    return_exceptions: bool = False,
    **options: Any,
) -> list[Any]:
    """Call a function for each item, each in a fresh sandbox; the results, in the order of the items.

    At the first that fails, or when this is interrupted, the others are ended, and no sandbox is left.

    :param items: taken when their turn comes, so that there may be very many.
    :param n: how many sandboxes at once, at most.
    :param progress: show a bar, by tqdm.
    :param return_exceptions: have what calls raise among the results, in place of raising the first.
    :param options: as for :class:`HyperExecutor`: image, memory, cpus, timeout, reuse, initializer, modules ...
    :raise RequestError: there is no tqdm.
    :raise Exception: what a call raised.
    """
    found: dict[int, Any] = {}
    todo, pending = enumerate(items), dict[Future[Any], int]()
    with _bar(items, show=progress) as bar, HyperExecutor(n, **options) as executor:
        try:
            while True:
                for index, item in itertools.islice(todo, 2 * n - len(pending)):
                    pending[executor.submit(fn, item)] = index
                if not pending:
                    return [found[index] for index in range(len(found))]
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    index, error = pending.pop(future), future.exception()
                    if error and not return_exceptions:
                        raise error
                    found[index] = error or future.result()
                    if bar:
                        bar.update()
        finally:
            for future in pending:
                future.cancel()


def _bar(items: Iterable[Any], *, show: bool) -> AbstractContextManager[Any]:
    if not show:
        return nullcontext()
    try:
        tqdm = importlib.import_module("tqdm.auto").tqdm
    except ImportError as exc:
        raise RequestError("progress needs tqdm, which is not installed", hint="run: pip install tqdm") from exc
    bar: AbstractContextManager[Any] = tqdm(total=len(items) if isinstance(items, Sized) else None)
    return bar
