"""An event loop that a fuzzer turns by hand: real sockets, no time, and a bound on how long it is busy."""

import asyncio
import os
import select
import time

#: Turns after which whoever is still called for no new reason spins.
_MAX_TURNS = 200
#: How long other threads of this process may have what they opened meanwhile, in seconds.
_SETTLE_S = 5.0


class FakeLoop:
    """As much of a loop as ``vsock`` uses."""

    def __init__(self):
        self.readers, self.writers, self.soon, self.later = {}, {}, [], []

    def get_debug(self):
        return False

    def create_future(self):
        return asyncio.Future(loop=self)

    def call_soon(self, call, *args, context=None):
        handle = _Handle(call, args)
        self.soon.append(handle)
        return handle

    def call_later(self, _delay, call, *args):
        self.later.append((call, args))

    def add_reader(self, fd, call, *args):
        self.readers[_number(fd)] = (call, args)

    def remove_reader(self, fd):
        self.readers.pop(_number(fd), None)

    def add_writer(self, fd, call, *args):
        self.writers[_number(fd)] = (call, args)

    def remove_writer(self, fd):
        self.writers.pop(_number(fd), None)

    def turn(self):
        """Call what is ready, once; whether anything was."""
        soon, self.soon = self.soon, []
        for handle in soon:
            if not handle.is_cancelled:
                handle.call(*handle.args)
        poll = select.poll()
        for fd in {*self.readers, *self.writers}:
            poll.register(fd, select.POLLIN * (fd in self.readers) | select.POLLOUT * (fd in self.writers))
        found = poll.poll(0)
        for fd, events in found:
            assert not events & select.POLLNVAL, "a closed descriptor is still watched"
            for calls, wanted in ((self.readers, ~select.POLLOUT), (self.writers, ~select.POLLIN)):
                if events & wanted and fd in calls:
                    call, args = calls[fd]
                    call(*args)
        return bool(soon or found)

    def settle(self, after_turn=lambda: None):
        """Turn until nothing is ready."""
        for _ in range(_MAX_TURNS):
            after_turn()
            if not self.turn():
                return
        raise AssertionError("the loop does not come to rest")

    def pass_time(self):
        later, self.later = self.later, []
        for call, args in later:
            call(*args)


class _Handle:
    def __init__(self, call, args):
        self.call, self.args, self.is_cancelled = call, args, False

    def cancel(self):
        self.is_cancelled = True


def _number(fd):
    return fd if isinstance(fd, int) else fd.fileno()


def lowest_fd():
    """The lowest free descriptor: the same again once all that was opened since is closed."""
    fd = os.dup(0)
    os.close(fd)
    return fd


def assert_none_left(before):
    """No descriptor is left of those opened since :func:`lowest_fd` said ``before``."""
    deadline_s = time.monotonic() + _SETTLE_S
    while lowest_fd() > before:
        assert time.monotonic() < deadline_s, "a descriptor is left"
        time.sleep(0.01)  # there is no event for another thread's closing
