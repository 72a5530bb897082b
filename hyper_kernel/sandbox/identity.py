"""Runs inside a cloned Jupyter kernel, which gets this file's text: standard library only, and nothing imported twice.

All clones of a template hold the same random states, cached names and environment. What was loaded in the template is
replaced here; what is loaded later finds the guest's own identity by itself. The hash seed of a running Python cannot
be changed, nor can where it lies in memory.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable
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
    for name, renew in _RENEWALS.items():
        if module := sys.modules.get(name):
            # One seed for each: what a weak generator hands out tells its seed, and must tell nobody else's.
            renew(module, hashlib.sha512(seed + name.encode()).digest())


def _renew_random(random: Any, seed: bytes) -> None:
    random.seed(seed)  # the one behind the module's functions


def _renew_numpy(numpy_random: Any, seed: bytes) -> None:
    # The generator behind numpy.random's functions; default_rng() takes fresh entropy from the kernel each time.
    numpy_random.seed([int.from_bytes(seed[at : at + 4], "little") for at in range(0, len(seed), 4)])


def _renew_uuid(uuid: Any, seed: bytes) -> None:
    # uuid1: libuuid keeps the node and the sequence that it once drew, and cannot be told to draw again.
    uuid._generate_time_safe = uuid._last_timestamp = None
    uuid._node = int.from_bytes(seed[:6], "big") | 1 << 40  # the bit of nodes that no network card has (RFC 9562, 6.10)


def _renew_tempfile(tempfile: Any, _seed: bytes) -> None:
    tempfile._name_sequence = tempfile.tempdir = None


def _renew_platform(platform: Any, _seed: bytes) -> None:
    platform._uname_cache = None  # it holds the host's name


def _renew_ssl(ssl: Any, seed: bytes) -> None:
    ssl.RAND_add(seed, len(seed))  # OpenSSL's own generator, which takes the kernel's entropy along


def _renew_libc(ctypes: Any, seed: bytes) -> None:
    ctypes.CDLL(None).srand(int.from_bytes(seed[:4], "little"))  # rand(), which ZeroMQ's library has seeded


def _renew_sqlite(sqlite: Any, _seed: bytes) -> None:
    # The generator behind SQL's random(): told so, it seeds itself anew at its next use (sqlite3_randomness).
    if (ctypes := sys.modules.get("ctypes")) and (path := getattr(sqlite, "__file__", None)):
        ctypes.CDLL(path).sqlite3_randomness(0, None)


def _renew_multiprocessing(process: Any, _seed: bytes) -> None:
    process.current_process().authkey = os.urandom(32)


def _renew_kernel(zmqshell: Any, _seed: bytes) -> None:
    shell = zmqshell.ZMQInteractiveShell.instance()
    shell.kernel.session.session = os.urandom(16).hex()  # ids of messages start with it
    shell.kernel.ident = os.urandom(16).hex()  # topics of messages, and who a reply is from
    shell.displayhook.topic = shell.kernel._topic("execute_result")


_RENEWALS = {
    "random": _renew_random,
    "numpy.random": _renew_numpy,
    "uuid": _renew_uuid,
    "tempfile": _renew_tempfile,
    "platform": _renew_platform,
    "ssl": _renew_ssl,
    "ctypes": _renew_libc,
    "_sqlite3": _renew_sqlite,
    "multiprocessing.process": _renew_multiprocessing,
    "ipykernel.zmqshell": _renew_kernel,
}


def forget_cells(shell: Any, names: dict[str, Any], hidden: dict[str, Any]) -> None:
    """Undo what cells have left in the session.

    :param names: the user's namespace before them.
    :param hidden: what of it is not the user's; where it holds another ``_``, IPython sets ``_`` no more.
    """
    history = shell.history_manager
    history.writeout_cache()
    with history.db:
        for table in ("history", "output_history"):
            history.db.execute(f"DELETE FROM {table}")
    history.input_hist_parsed[:] = history.input_hist_raw[:] = [""]
    history._i00 = history._i = history._ii = history._iii = ""
    for kept in (history.output_hist, history.outputs, history.exceptions):
        kept.clear()
    shell.displayhook.flush()
    for namespace, before in ((shell.user_ns, names), (shell.user_ns_hidden, hidden)):
        namespace.clear()
        namespace.update(before)
    shell.last_execution_succeeded, shell.last_execution_result = True, None
    shell.execution_count = 1


def serve(kernel: Any) -> None:
    """Have a kernel answer the host's own requests, on its main thread as any other.

    ``hyper_identity_request`` {seed: hex, env, cwd}: see :func:`take_identity`. Not a cell: running one costs an
    emulated processor three times as much. ``hyper_forget_request`` {}: see :func:`forget_cells` (names: of now).
    """
    names, hidden = dict(kernel.shell.user_ns), dict(kernel.shell.user_ns_hidden)

    def take(content: dict[str, Any]) -> None:
        take_identity(bytes.fromhex(content["seed"]), content["env"], content["cwd"])

    def forget(_content: dict[str, Any]) -> None:
        forget_cells(kernel.shell, names, hidden)

    for kind, work in (("hyper_identity", take), ("hyper_forget", forget)):
        kernel.shell_handlers[f"{kind}_request"] = _handler(kernel, f"{kind}_reply", work)


def _handler(kernel: Any, kind: str, work: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
    def answer(stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        try:
            work(parent["content"])
            reply = {"status": "ok"}
        except Exception as exc:  # noqa: BLE001 - the host decides what becomes of a kernel that cannot
            reply = {"status": "error", "ename": type(exc).__name__, "evalue": str(exc)}
        kernel.session.send(stream, kind, reply, parent, ident)

    return answer


if __name__ == "hyper_identity":
    serve(sys.modules["ipykernel.zmqshell"].ZMQInteractiveShell.instance().kernel)
