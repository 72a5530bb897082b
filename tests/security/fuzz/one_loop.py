"""Real asyncio for many short plays: one loop, in which nothing may fail unheard and no descriptor stay."""

import asyncio
import functools

from tests.security.fuzz.fake_loop import assert_none_left, lowest_fd

#: How long one play may take, in seconds: there is nothing in it to wait for.
_PLAY_S = 20


@functools.cache
def _loop():
    loop = asyncio.new_event_loop()
    loop.failures = []
    loop.set_exception_handler(lambda _, context: loop.failures.append(context))
    return loop


def run_in_loop(play):
    loop = _loop()
    before = lowest_fd()
    loop.run_until_complete(asyncio.wait_for(play, _PLAY_S))
    failures, loop.failures[:] = loop.failures[:], []
    assert not failures, failures
    assert_none_left(before)
