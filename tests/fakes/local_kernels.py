"""hyperd's calls for kernels, answered with ipykernels of this machine in place of sandboxes."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from contextlib import contextmanager
from pathlib import Path

from hyper_kernel.client import State
from hyper_kernel.errors import BusyError, NotFoundError
from hyper_kernel.sandbox.record import Record

#: No history: it is a database on the disk, whose writes wait for all that others write.
_OPTIONS = ("--HistoryManager.enabled=False",)


class LocalKernels:
    """As ``Client``, as far as a session needs it.

    :param folder: for sockets and connection files.
    :param room: how many kernels may live at once.
    """

    def __init__(self, folder: Path, room: int = 100) -> None:
        self.folder = folder
        self.room = room
        self.children: dict[str, subprocess.Popen] = {}
        self.specs = {}
        self.names: dict[str, str] = {}
        self.started = 0
        self._lock = threading.Lock()

    def start_kernel(self, spec):
        if len(self.children) >= self.room:
            raise BusyError("no room")
        with self._lock:  # threads start sandboxes side by side
            self.started += 1
            number = self.started
        ident = f"{number:064x}"
        ports = {f"{name}_port": number for number, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
        connection = {"transport": "ipc", "ip": str(self.folder / f"k{number}"), **ports}
        path = self.folder / f"{number}.json"
        path.write_text(json.dumps({**connection, "key": spec.kernel.key, "signature_scheme": "hmac-sha256"}))
        self.children[ident] = subprocess.Popen(
            [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", str(path), *_OPTIONS],
            cwd=self.folder,
            env=os.environ | {"JPY_PARENT_PID": "1", "IPYTHONDIR": str(self.folder / "ipython")},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.specs[ident] = spec
        self.names[ident] = f"fake_{number}"
        return {"id": ident, "name": self.names[ident], "connection": connection}

    def rename(self, ident, name):
        self.names[ident] = name

    def sandbox(self, name):
        for ident, known in self.names.items():
            if known == name and ident in self.children:
                return Record(
                    id=ident, name=name, spec=self.specs[ident], image_id="", created_s=0.0, state=State.RUNNING
                )
        raise NotFoundError("No such container")

    def signal_kernel(self, ident, number):
        os.killpg(self.children[ident].pid, number)

    def wait_kernel(self, ident, timeout_s):
        if ident not in self.children:
            raise NotFoundError("No such container")
        try:
            self.children[ident].wait(timeout_s)
        except subprocess.TimeoutExpired:
            return {"state": "running", "reason": ""}
        reason = "out of memory: used all of its 512 MiB" if self.children[ident].returncode == -9 else ""
        return {"state": "exited", "reason": reason}

    def remove_kernel(self, ident):
        child = self.children.pop(ident, None)
        if child is not None:
            child.send_signal(signal.SIGKILL)
            child.wait()

    @contextmanager
    def get_archive(self, ident, path):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(path, arcname=Path(path).name)
        file.seek(0)
        yield file

    def images(self):
        return [{"RepoTags": ["hyper/python:latest", "debian:12"]}]

    def close(self):
        for ident in list(self.children):
            self.remove_kernel(ident)
