"""Templates on disk: a folder each, named by the digest of everything that matters.

``memory`` is the machine's memory (sparse), ``state`` what its devices were, ``manifest.json`` what it was baked from
and the digests of the two, which are verified whenever a template is loaded.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyper_kernel import wire
from hyper_kernel.errors import HostError
from hyper_kernel.host.lock import hold_lock
from hyper_kernel.hypervisor import MachineConfig, Ram
from hyper_kernel.paths import make_private

#: A template's memory and state can neither grow, shrink nor be written, and that stays so; see memfd_create(2).
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_CHUNK = 1 << 18
_ZEROS = bytes(_CHUNK)
#: Templates that a process keeps loaded; each takes what of its memory is not zero.
_MAX_HELD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A template as its folder describes it.

    ``memory_bytes`` is what of the memory is not zero; ``kernel_key`` what the kernel that runs in it signs with, empty
    where none does.
    """

    key: str
    folder: Path
    facts: dict[str, Any]
    memory_bytes: int
    memory_digest: str
    state_digest: str
    kernel_key: str


class TemplateStore:
    """The templates of one user.

    :param folder: where they are; made when the first is added.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, Ram] = {}

    def find(self, key: str) -> Template | None:
        """The template of this key, or None."""
        folder = self._folder / key
        try:
            data = json.loads((folder / "manifest.json").read_text())
            return Template(folder=folder, **data)
        except (OSError, ValueError, TypeError):
            return None

    def templates(self) -> list[Template]:
        """All templates, newest first."""
        folders = sorted(self._folder.glob("*/manifest.json"), key=lambda path: -path.stat().st_mtime)
        return [found for path in folders if (found := self.find(path.parent.name))]

    def remove(self, key: str) -> None:
        """Remove one; machines that were started from it live on. Again: nothing happens."""
        shutil.rmtree(self._folder / key, ignore_errors=True)

    @contextmanager
    def baking(self, key: str) -> Iterator[Path | None]:
        """A folder to bake into, or None where another process has just baked the same; they wait for each other.

        What :meth:`add` did not take from it is removed, also when baking fails.
        """
        make_private(self._folder)
        with hold_lock(self._folder / f"{key}.lock"):
            for left in self._folder.glob(f".baking-{key}-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            if self.find(key):
                yield None
                return
            with tempfile.TemporaryDirectory(prefix=f".baking-{key}-", dir=self._folder) as folder:
                yield Path(folder)

    def add(self, key: str, baked: Path, memory: int, facts: dict[str, Any], kernel_key: str = "") -> Template:
        """Keep what was baked.

        :param baked: a folder of :meth:`baking` that holds ``state``.
        :param memory: the memory's memfd.
        :param kernel_key: what its kernel signs with.
        :raise HostError: the disk refuses.
        """
        try:
            with open(baked / "memory", "wb") as file:
                copied, digest = _copy_sparse(memory, file.fileno())
            manifest: dict[str, Any] = {
                "key": key,
                "facts": facts,
                "memory_bytes": copied,
                "memory_digest": digest,
                "state_digest": hashlib.sha256((baked / "state").read_bytes()).hexdigest(),
                "kernel_key": kernel_key,
            }
            (baked / "manifest.json").write_text(json.dumps(manifest))
            self.remove(key)
            kept = self._folder / key
            kept.mkdir(mode=0o700)
            for name in ("memory", "state", "manifest.json"):  # the manifest last: it makes the template
                (baked / name).replace(kept / name)
        except OSError as exc:
            self.remove(key)
            raise HostError(f"cannot keep a template in {self._folder}: {exc}", hint="free some space") from exc
        return Template(folder=kept, **manifest)

    def hold(self, key: str) -> None:
        """Load a template and keep it loaded, for this process and those it forks, which so share its pages.

        The one that was asked for longest ago goes when there are more than ``_MAX_HELD``.

        :raise HostError: as :meth:`load`.
        """
        template = self.find(key)
        ram = self._held.pop(key, None)
        if template is None:
            if ram:
                _close(ram)
            return
        os.utime(template.folder / "manifest.json")
        self._held[key] = ram or self._read(template)
        if len(self._held) > _MAX_HELD:
            _close(self._held.pop(next(iter(self._held))))

    @contextmanager
    def load(self, template: Template) -> Iterator[Ram]:
        """Its memory and its state in sealed memfds, both verified.

        :raise HostError: it is damaged (it is removed then), or the host refuses the memory.
        """
        if held := self._held.get(template.key):
            yield held
            return
        ram = self._read(template)
        try:
            yield ram
        finally:
            _close(ram)

    def _read(self, template: Template) -> Ram:
        memory, state = _open_memfd(), _open_memfd()
        try:
            with open(template.folder / "memory", "rb") as file:
                _, memory_digest = _copy_sparse(file.fileno(), memory)
            content = (template.folder / "state").read_bytes()
            state_digest = hashlib.sha256(content).hexdigest()
            if (memory_digest, state_digest) != (template.memory_digest, template.state_digest):
                self.remove(template.key)
                raise HostError(f"template {template.key[:12]} was damaged and is removed", hint="run: hyper setup")
            os.pwrite(state, content, 0)
            for fd in (memory, state):
                # SECURITY: nobody, a guest's broken-out QEMU included, can change what clones start from.
                fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        except BaseException as exc:
            os.close(memory)
            os.close(state)
            if isinstance(exc, OSError):
                raise HostError(f"cannot load template {template.key[:12]}: {exc}", hint="run: hyper setup") from exc
            raise
        return Ram(fd=memory, state=Path(f"/proc/self/fd/{state}"))


def template_facts(config: MachineConfig, hypervisor: str, kernel: str | None = None) -> dict[str, Any]:
    """Everything that a template depends on: a machine that differs in any of it must not start from it.

    :param hypervisor: which build of it.
    :param kernel: the image's kernelspec whose kernel runs in it; None: none does.
    """
    return {
        "hypervisor": hypervisor,
        "tier": config.tier,
        "memory_mib": config.memory_mib,
        "cpus": config.cpus,
        "cmdline": config.cmdline,
        "files": [_identify(path) for path in (config.kernel, config.initrd, *config.disks)],
        "wire": wire.VERSION,
        "kernel": kernel,
    }


def template_key(facts: dict[str, Any]) -> str:
    """The name of the template with these facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _open_memfd() -> int:
    return os.memfd_create("hyper-template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def _close(ram: Ram) -> None:
    os.close(ram.fd)
    if ram.state:
        os.close(int(ram.state.name))


def _identify(path: Path) -> list[Any]:
    """A file whose folder is named by its content's digest, or whose change its size and time tell."""
    facts = path.stat()
    return [str(path.resolve()), facts.st_size, facts.st_mtime_ns]


def _copy_sparse(source: int, target: int) -> tuple[int, str]:
    """Copy what is not zero; how many bytes, and a digest of where they were and what they held."""
    size, at, copied, digest = os.fstat(source).st_size, 0, 0, hashlib.blake2b(digest_size=32)
    os.ftruncate(target, size)
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA) // _CHUNK * _CHUNK
        except OSError:  # ENXIO: only a hole is left
            break
        data = os.pread(source, _CHUNK, at)
        # File systems place holes as they like: only what is read may count.
        if data != _ZEROS[: len(data)]:
            digest.update(at.to_bytes(8, "little"))
            digest.update(data)
            os.pwrite(target, data, at)
            copied += len(data)
        at += len(data)
    return copied, digest.hexdigest()
