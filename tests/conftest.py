"""For all tests."""

import signal

# A shell has what it starts in the background ignore this, and so would do all that tests start, to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)
