"""How a sandbox is, in the words that people know from Docker; pure."""

import time

from hyper_kernel.sandbox.record import Liveness, Record, State

#: From so many seconds on it is said how long a sandbox has been idle.
_LONG_S = 60.0


def status_text(record: Record, now_s: float | None = None) -> str:
    """``Up 5 minutes (idle 4 minutes)``, ``Exited (0) 2 hours ago``, ``Exited (137, out of memory) 3 seconds ago``.

    :param now_s: seconds since the epoch; the clock's where it is left out.
    """
    now = time.time() if now_s is None else now_s
    if record.state is State.CREATED:
        return "Created"
    if record.state is State.BOOTING:
        return "Starting"
    if record.state is not State.EXITED:
        how = _how(record)
        return f"Up {duration_text(now - (record.started_s or now))}" + (f" ({how})" if how else "")
    name = record.death or record.reason
    return f"Exited ({record.exit_code}{name and f', {name}'}) {duration_text(now - record.finished_s)} ago"


def _how(record: Record) -> str:
    """What is worth saying of one that is up; empty: nothing."""
    if record.spec.kernel and record.exit_code != -1:
        return record.death or "its kernel has ended"
    if record.liveness == Liveness.IDLE and record.idle_s >= _LONG_S:
        return f"{record.liveness} {duration_text(record.idle_s)}"
    return record.liveness


def duration_text(seconds: float) -> str:
    """A length of time in its largest unit: ``3 minutes``."""
    for size, word in ((86400 * 7, "week"), (86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {word}{'s' * (count > 1)}"
    if seconds < 1:
        return "Less than a second"
    return f"{int(seconds)} second{'s' * (seconds >= 2)}"


def size_text(size: float) -> str:
    """Bytes as Docker prints sizes: ``12.3MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g}{unit}"
        size /= 1000
    return f"{size:.3g}TB"


def printable(text: str) -> str:
    """Text from a guest, fit for a terminal."""
    # SECURITY: control characters in it could move the cursor, set the title or type into some terminals.
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
