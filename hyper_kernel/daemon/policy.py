"""hyperd's policy: read anew whenever its file has changed, applied to every start, and shown."""

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hyper_kernel.daemon.ledger import Ledger
from hyper_kernel.daemon.routing import Answer, Routes
from hyper_kernel.daemon.server import Call
from hyper_kernel.errors import HyperError, RequestError
from hyper_kernel.hypervisor import Tier
from hyper_kernel.paths import HOST_POLICY, Paths
from hyper_kernel.policy.parse import PolicyError, parse_policy
from hyper_kernel.policy.rules import (
    Policy,
    UserFacts,
    admit,
    check_tier,
    check_user,
    effective_default,
    only_asked,
    spent,
)
from hyper_kernel.qemu.accel import recall_tier
from hyper_kernel.rootfs.guest import get_guest
from hyper_kernel.sandbox.record import Record
from hyper_kernel.spec import SandboxSpec

log = logging.getLogger(__name__)

#: What tells one version of a file from another: path, time of change, size, inode.
_Stamp = tuple[str, int, int, int]


class PolicyFile:
    """A policy on disk.

    :param own: the user's file.
    :param host: the administrator's, which counts alone where it exists.
    """

    def __init__(self, own: Path, host: Path = HOST_POLICY) -> None:
        self._own, self._host = own, host
        self._stamp: _Stamp | None = None
        #: The last policy that could be read.
        self.last = Policy()
        #: Why the file as it is now cannot be read; empty where it can.
        self.problem = ""

    def get(self) -> Policy:
        """The policy as the file is now.

        :raise PolicyError: it cannot be read; nothing may start on the strength of one that is outdated.
        """
        self.refresh()
        if self.problem:
            # SECURITY: fail closed. The last good policy may allow what the new one, with its mistake, forbids.
            raise PolicyError(self.problem, hint="mend it; until then nothing is started")
        return self.last

    @property
    def ignored(self) -> str:
        """The user's file, where it does not count; else empty."""
        return str(self._own) if self._own.exists() and self._host.exists() else ""

    def refresh(self) -> None:
        """Read the file if it has changed; a mistake in it is noted."""
        try:
            stamp = self._find()
            if stamp == self._stamp and not self.problem:
                return
            self.last, self.problem = _read(stamp), ""
            if stamp != self._stamp:
                log.info("policy: %s", stamp[0] if stamp else "the default, there is no file")
            self._stamp = stamp
        except HyperError as exc:
            if self.problem != str(exc):
                log.error("%s", exc)
            self.problem = str(exc)

    def _find(self) -> _Stamp | None:
        """Which file counts, and its version; None where there is none.

        :raise PolicyError: it cannot be looked at.
        """
        for path in (self._host, self._own):
            try:
                found = path.stat()
                return str(path), found.st_mtime_ns, found.st_size, found.st_ino
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as exc:
                raise PolicyError(f"the policy cannot be read: {path}: {exc.strerror}") from exc
        return None


def _read(stamp: _Stamp | None) -> Policy:
    if stamp is None:
        return Policy()
    try:
        return parse_policy(Path(stamp[0]).read_text(), stamp[0])
    except (OSError, UnicodeError) as exc:
        raise PolicyError(f"the policy cannot be read: {stamp[0]}: {exc}") from exc


class Rules:
    """The policy as hyperd applies it to what the user has.

    :param file: where it stands.
    :param ledger: what the user's sandboxes took of the processors.
    :param live: records of those that live.
    """

    def __init__(self, paths: Paths, file: PolicyFile, ledger: Ledger, live: Callable[[], Iterable[Record]]) -> None:
        self._paths = paths
        self._file = file
        self._live = live
        self.ledger = ledger

    def admit(self, spec: SandboxSpec) -> SandboxSpec:
        """See ``policy.rules.admit``.

        :raise DeniedError, RequestError: as there, or the policy cannot be read.
        """
        return admit(self._file.get(), spec)

    def admit_start(self, record: Record) -> SandboxSpec:
        """The spec of a recorded sandbox that is about to start, by the policy of now.

        :raise DeniedError: as :meth:`admit`, or this host isolates too weakly.
        :raise BusyError: the user has too much already.
        """
        policy = self._file.get()
        spec = admit(policy, only_asked(record.spec, record.asked))
        self._check_tier(policy)
        facts = self._facts()
        if policy.user.cpu_s_per_day:  # looking at every process of every sandbox takes time
            facts = replace(facts, cpu_s=self.ledger.measure(self._live()))
        check_user(policy, facts, spec.memory_mib)
        return spec

    def spent(self) -> str:
        """Why what lives must end, for people; empty while the user has processor time left."""
        self._file.refresh()
        if not self._file.last.user.cpu_s_per_day:
            return ""
        return spent(self._file.last, self.ledger.measure(self._live()))

    def default(self) -> dict[str, Any]:
        """Memory and processors of a machine for which nobody asked for anything."""
        default = effective_default(self._file.get())
        return {"memory_mib": default.memory_mib, "cpus": default.cpus}

    def summary(self) -> str:
        """The policy in a line."""
        self._file.refresh()
        return self._file.problem or self._file.last.file or "the default"

    def describe(self) -> dict[str, Any]:
        """What holds now; no limit is None. After a mistake in the file: what held last."""
        self._file.refresh()
        policy, facts, cpu_s = self._file.last, self._facts(), self.ledger.measure(self._live())
        default, cap = asdict(effective_default(policy)), asdict(policy.sandbox)
        used = {"sandboxes": facts.sandboxes, "memory_mib": facts.memory_mib, "cpu_s_per_day": round(cpu_s, 1)}
        return {
            "file": policy.file,
            "ignored": self._file.ignored,
            "problem": self._file.problem,
            "sandbox": {name: {"default": default[name] or None, "cap": cap[name] or None} for name in cap},
            "user": {name: {"cap": value or None, "used": used[name]} for name, value in asdict(policy.user).items()},
            "output": {"trusted": policy.trusted_output},
            "isolation": {"tier": str(policy.tier)},
            "files": {"modes": list(policy.files)},
        }

    def _facts(self) -> UserFacts:
        """What the user has, but for processor time."""
        live = [record.spec.memory_mib for record in self._live()]
        return UserFacts(sandboxes=len(live), memory_mib=sum(live))

    def _check_tier(self, policy: Policy) -> None:
        """Refuse early what a shim would refuse when it plans the machine; while nothing is known, it finds out."""
        with contextlib.suppress(OSError):
            if policy.tier is Tier.HARDWARE and (
                verdict := recall_tier(self._paths.tier, get_guest(self._paths).kernel)
            ):
                check_tier(policy, verdict.tier, verdict.reason)


class PolicyRoutes:
    """Answers about the policy."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def add_to(self, routes: Routes) -> None:
        """Add the routes."""
        routes.add("GET", "/hyper/v1/policy", self.get)
        routes.add("POST", "/hyper/v1/policy/admit", self.admit)

    async def get(self, call: Call) -> Answer:
        """GET /hyper/v1/policy."""
        return Answer(body=self._rules.describe())

    async def admit(self, call: Call) -> Answer:
        """POST /hyper/v1/policy/admit SPEC: what a sandbox that asks for this would get; nothing is started."""
        try:
            spec = SandboxSpec.from_dict(await call.json())
        except (TypeError, ValueError, AttributeError) as exc:
            raise RequestError(f"the spec cannot be read: {exc}") from exc
        return Answer(body=self._rules.admit(spec).as_dict())
