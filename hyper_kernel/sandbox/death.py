"""The names of what ends a sandbox before its time."""

from enum import StrEnum


class Death(StrEnum):
    """Why a sandbox ended though nobody meant it to, or by whose will. A reason for people begins with the name."""

    #: The guest's kernel, or the host's, had no more memory to give and killed.
    OUT_OF_MEMORY = "out of memory"
    #: The sandbox lived as long as it may.
    WALL_LIMIT = "wall limit"
    #: A cell ran longer than it may and did not heed an interrupt.
    CELL_LIMIT = "cell limit"
    #: The kernel ended while its disk was full.
    DISK_FULL = "disk full"
    #: A cell went on to show more than it may, and did not heed an interrupt.
    OUTPUT_LIMIT = "output limit"
    #: The kernel ended while no further process could be started.
    TOO_MANY_PROCESSES = "too many processes"
    #: The user has had as much processor time as policy gives.
    CPU_LIMIT = "cpu limit"
    #: The guest's own kernel gave up.
    GUEST_PANIC = "guest panic"
    #: Somebody ended it by force.
    KILLED = "killed"
    #: The process it belonged to is gone.
    OWNER_GONE = "owner gone"
    #: What held it on the host (its shim, its QEMU) was lost.
    HOST_LOST = "host lost"
    #: The guest broke the rules of vsock or of the channels.
    VIOLATION = "firewall violation"
