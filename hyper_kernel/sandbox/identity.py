"""Runs inside a cloned Jupyter kernel, which gets this file's text: standard library only, and nothing imported twice.

All clones of a template hold the same random states, cached names and environment. What was loaded in the template is
replaced here; what is loaded later finds the guest's own identity by itself. The hash seed of a running Python cannot
be changed.
"""

import os
import random
import sys
import time
from typing import Any


def take_identity(seed: bytes, env: dict[str, str], cwd: str) -> None:
    """Replace what clones share.

    :param seed: 64 random bytes.
    :param env: variables to set.
    :param cwd: the folder to go to, made where it is missing.
    """
    os.environ.update(env)
    time.tzset()
    os.makedirs(cwd, exist_ok=True)
    os.chdir(cwd)
    random.seed(seed)
    for name, renew in _RENEWALS.items():
        if module := sys.modules.get(name):
            renew(module, seed)


def _renew_numpy(numpy_random: Any, seed: bytes) -> None:
    # The generator behind numpy.random's functions; default_rng() takes fresh entropy from the kernel each time.
    numpy_random.seed([int.from_bytes(seed[at : at + 4], "little") for at in range(0, len(seed), 4)])


def _renew_uuid(uuid: Any, _seed: bytes) -> None:
    uuid._node = uuid._last_timestamp = None  # of uuid1


def _renew_tempfile(tempfile: Any, _seed: bytes) -> None:
    tempfile._name_sequence = tempfile.tempdir = None


def _renew_platform(platform: Any, _seed: bytes) -> None:
    platform._uname_cache = None  # it holds the host's name


def _renew_ssl(ssl: Any, seed: bytes) -> None:
    ssl.RAND_add(seed, len(seed))  # OpenSSL's own generator, which reseeds from it


def _renew_multiprocessing(process: Any, _seed: bytes) -> None:
    process.current_process().authkey = os.urandom(32)


def _renew_session(zmqshell: Any, _seed: bytes) -> None:
    # Message ids start with it.
    kernel = zmqshell.ZMQInteractiveShell.instance().kernel
    kernel.session.session = os.urandom(16).hex()


_RENEWALS = {
    "numpy.random": _renew_numpy,
    "uuid": _renew_uuid,
    "tempfile": _renew_tempfile,
    "platform": _renew_platform,
    "ssl": _renew_ssl,
    "multiprocessing.process": _renew_multiprocessing,
    "ipykernel.zmqshell": _renew_session,
}

if __name__ == "hyper_identity":
    take_identity(**globals()["arguments"])
