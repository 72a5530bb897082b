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
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyper_kernel import wire
from hyper_kernel.errors import HostError
from hyper_kernel.host.lock import hold_lock, try_lock
from hyper_kernel.hypervisor import MachineConfig, Ram
from hyper_kernel.paths import make_private
from hyper_kernel.sandbox.kernel import IDENTITY_SOURCE
from hyper_kernel.template.evict import Use, decide_eviction

#: A template's memory and state can neither grow, shrink nor be written, and that stays so; see memfd_create(2).
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_CHUNK = 1 << 18
_ZEROS = bytes(_CHUNK)
_BAKING = ".baking-"
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

    @property
    def used_s(self) -> float:
        """When it was used last, or baked, in seconds since the epoch; 0.0 where it is gone."""
        return _changed_s(self.folder / "manifest.json")

    @property
    def baked_s(self) -> float:
        """When it was baked, in seconds since the epoch; 0.0 where it is gone."""
        return _changed_s(self.folder / "memory")


class TemplateStore:
    """The templates of one user.

    :param folder: where they are; made when the first is added.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, tuple[Template, Ram]] = {}

    def find(self, key: str) -> Template | None:
        """The template of this key, or None."""
        folder = self._folder / key
        try:
            data = json.loads((folder / "manifest.json").read_text())
            return Template(folder=folder, **data)
        except (OSError, ValueError, TypeError):
            return None

    def templates(self) -> list[Template]:
        """All templates, the one that was used last first."""
        found = [one for folder in self._folders() if (one := self.find(folder.name))]
        return sorted(found, key=lambda one: -one.used_s)

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
            for left in self._folder.glob(f"{_BAKING}{key}-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            if self.find(key):
                yield None
                return
            with tempfile.TemporaryDirectory(prefix=f"{_BAKING}{key}-", dir=self._folder) as folder:
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
        self.evict(keep=key, hypervisor=facts.get("hypervisor", ""))
        return Template(folder=kept, **manifest)

    def evict(self, *, keep: str = "", hypervisor: str = "") -> list[str]:
        """Remove templates that can never be used again, were not used for long, or are too much; their keys.

        :param keep: the key of one that stays in any case.
        :param hypervisor: which build of it is here; empty: not known.
        """
        uses = [_look_at(folder, self.find(folder.name), hypervisor) for folder in self._folders()]
        gone = []
        for key in decide_eviction(uses, time.time(), keep):
            with try_lock(self._folder / f"{key}.lock") as held:
                if held:  # else it is being baked anew
                    self.remove(key)
                    gone.append(key)
        for left in self._folder.glob(f"{_BAKING}*"):  # of processes that were killed
            key = left.name.split("-")[1]
            with try_lock(self._folder / f"{key}.lock") as held:
                if held and key != keep:
                    shutil.rmtree(left, ignore_errors=True)
        return gone

    def _folders(self) -> list[Path]:
        """What is, or was meant to be, a template each."""
        return list(self._folder.glob("[!.]*/"))

    def hold(self, key: str) -> None:
        """Load a template and keep it loaded, for this process and those it forks, which so share its pages.

        The one that was asked for longest ago goes when there are more than ``_MAX_HELD``, and so do those that were
        removed or baked anew since.

        :raise HostError: as :meth:`load`.
        """
        for other, (held, _) in tuple(self._held.items()):
            if self.find(other) != held:
                self._drop(other)
        template = self.find(key)
        if template is None:
            return
        _touch(template)
        ram = self._held.pop(key)[1] if key in self._held else self._read(template)
        self._held[key] = template, ram
        if len(self._held) > _MAX_HELD:
            self._drop(next(iter(self._held)))

    @contextmanager
    def load(self, template: Template) -> Iterator[Ram]:
        """Its memory and its state in sealed memfds, both verified.

        :raise HostError: it is damaged (it is removed then), or the host refuses the memory.
        """
        held, ram = self._held.get(template.key, (None, None))
        if ram and held == template:  # one that was baked anew has another memory, and a kernel with another key
            yield ram
            return
        _touch(template)
        ram = self._read(template)
        try:
            yield ram
        finally:
            _close(ram)

    def _drop(self, key: str) -> None:
        _close(self._held.pop(key)[1])

    def _read(self, template: Template) -> Ram:
        try:
            with ExitStack() as undo:
                memory, state = _open_memfd(undo), _open_memfd(undo)
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
                undo.pop_all()
        except OSError as exc:
            raise HostError(f"cannot load template {template.key[:12]}: {exc}", hint="run: hyper setup") from exc
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
        "identity": None if kernel is None else hashlib.sha256(IDENTITY_SOURCE.encode()).hexdigest(),
    }


def is_stale(facts: dict[str, Any], hypervisor: str = "") -> bool:
    """Whether no machine can have these facts any more: a file is gone or has changed, or so has the hypervisor.

    :param hypervisor: which build of it is here; empty: not known.
    """
    try:
        # A build begins with the path of its program: another path may be another one that is installed beside it.
        same_program = facts["hypervisor"].split()[:1] == hypervisor.split()[:1]
        replaced = same_program and facts["hypervisor"] != hypervisor
        files = [_identify(Path(path)) for path, _, _ in facts["files"]]
        return bool(replaced or facts["wire"] != wire.VERSION or files != facts["files"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return True  # a file is gone, or it was baked by another version of this program


def template_key(facts: dict[str, Any]) -> str:
    """The name of the template with these facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _open_memfd(undo: ExitStack) -> int:
    fd = os.memfd_create("hyper-template", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    undo.callback(os.close, fd)
    return fd


def _close(ram: Ram) -> None:
    os.close(ram.fd)
    if ram.state:
        os.close(int(ram.state.name))


def _look_at(folder: Path, template: Template | None, hypervisor: str) -> Use:
    """One folder of the store; what is no template that can be read is stale."""
    size = 0
    with suppress(OSError):  # it is being removed
        size = sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    used_s = template.used_s if template else 0.0
    stale = template is None or is_stale(template.facts, hypervisor)
    return Use(key=folder.name, disk_bytes=size, used_s=used_s, is_stale=stale)


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _touch(template: Template) -> None:
    """Note that it is used, in its manifest's time of change."""
    with suppress(OSError):  # it is being removed
        os.utime(template.folder / "manifest.json")


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
