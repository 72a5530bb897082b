"""What hyperd's policy lets sandboxes and users have: its values, and the decisions that follow from them.

It comes from a file (``policy.parse``; ``example.toml`` explains every key) or is the default below. What a request,
a kernelspec among them, says of limits is a wish: a value above the cap is refused, and what nothing is said of gets
the default.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hyper_kernel.errors import BusyError, DeniedError, RequestError
from hyper_kernel.hypervisor import Tier
from hyper_kernel.limits import DEFAULT_CPUS, DEFAULT_MEMORY_MIB, MAX_CPUS, MAX_LIVE, MAX_MEMORY_MIB
from hyper_kernel.spec import Limits, SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What one sandbox has or may have; see ``spec.Limits``. Zero: no limit, and for scratch half of the memory."""

    memory_mib: int = 0
    cpus: int = 0
    cpu_percent: int = 0
    scratch_mib: int = 0
    processes: int = 0
    wall_s: float = 0.0
    cell_s: float = 0.0
    output_bytes: int = 0
    output_bytes_per_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCaps:
    """The most that all sandboxes of one user may have together. Zero: no limit.

    ``sandboxes`` and ``memory_mib`` count those that live; ``cpu_s_per_day`` is processor time from midnight on.
    """

    sandboxes: int = MAX_LIVE
    memory_mib: int = 0
    cpu_s_per_day: int = 0


#: What a sandbox gets that asks for nothing. Threads count as processes.
DEFAULT = Amounts(
    memory_mib=DEFAULT_MEMORY_MIB,
    cpus=DEFAULT_CPUS,
    processes=1024,
    output_bytes=256 << 20,
    output_bytes_per_s=64 << 20,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is allowed.

    ``default`` is what a sandbox gets that asks for nothing, ``sandbox`` the most that one may ask for, ``user`` what
    all may have together. ``trusted_output`` says whether a kernel may ask that nothing is taken out of what it shows,
    ``tier`` is the weakest isolation, ``files`` are the ways in which a guest may see the notebook's folder. ``file``
    is where all this stands, empty where there is no file.
    """

    default: Amounts = DEFAULT
    sandbox: Amounts = Amounts(memory_mib=MAX_MEMORY_MIB, cpus=MAX_CPUS)
    user: UserCaps = UserCaps()
    trusted_output: bool = False
    tier: Tier = Tier.SOFTWARE
    files: tuple[str, ...] = ("copy", "none")
    file: str = field(default="", compare=False)

    def where(self, key: str) -> str:
        """Where a key stands, for people."""
        return f"{key} in {self.file}" if self.file else f"{key}, by default"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserFacts:
    """What the user's sandboxes have now: how many live, their memory, and the processor time of today."""

    sandboxes: int = 0
    memory_mib: int = 0
    cpu_s: float = 0.0


#: Amounts in words: what it is, and its unit.
_WORDS = {
    "memory_mib": ("memory", " MiB"),
    "cpus": ("number of processors", ""),
    "cpu_percent": ("share of a processor", " %"),
    "scratch_mib": ("scratch space", " MiB"),
    "processes": ("number of processes", ""),
    "wall_s": ("life time", " s"),
    "cell_s": ("time for a cell", " s"),
    "output_bytes": ("output of a cell", " bytes"),
    "output_bytes_per_s": ("rate of output", " bytes/s"),
}


def admit(policy: Policy, spec: SandboxSpec) -> SandboxSpec:
    """The spec with every limit filled in; from here on a limit of zero is none.

    :raise DeniedError: it asks for more than policy allows; names what, the cap and its key.
    :raise RequestError: it asks for more scratch space than its memory, which holds that.
    """
    asked = amounts_of(spec)
    check_amounts(policy, asked)
    _check_files_and_output(policy, spec)
    isolation = Tier.HARDWARE if Tier.HARDWARE in (policy.tier, spec.isolation) else Tier.SOFTWARE
    return _with_amounts(spec, _fill(policy, asked), isolation)


def check_amounts(policy: Policy, asked: Amounts) -> None:
    """Refuse what is above a cap.

    :raise DeniedError: names what, the cap and its key.
    """
    for name, value in asdict(asked).items():
        cap, (what, unit) = getattr(policy.sandbox, name), _WORDS[name]
        # SECURITY: the only way from what a request says to what a sandbox gets.
        if cap and value > cap:
            key = policy.where(f"sandbox.{name}")
            raise DeniedError(
                f"{what} of {value:.12g}{unit} is above the cap of {cap:.12g}{unit} ({key})",
                hint="ask for less; see what is allowed with: hyper policy",
            )


def check_user(policy: Policy, facts: UserFacts, memory_mib: int) -> None:
    """Refuse one more sandbox where its user has too much already.

    :param memory_mib: what it would have.
    :raise BusyError: names what, the cap and its key.
    """
    caps, hint = policy.user, "look with hyper ps, and end some with: hyper stop NAME"
    if caps.sandboxes and facts.sandboxes >= caps.sandboxes:
        key = policy.where("user.sandboxes")
        raise BusyError(f"{facts.sandboxes} sandboxes live, and the limit is {caps.sandboxes} ({key})", hint=hint)
    if caps.memory_mib and facts.memory_mib + memory_mib > caps.memory_mib:
        key = policy.where("user.memory_mib")
        raise BusyError(
            f"memory of {memory_mib} MiB, with {facts.memory_mib} MiB of sandboxes that live, is above the cap of "
            f"{caps.memory_mib} MiB for all of a user's ({key})",
            hint=hint,
        )
    if reason := spent(policy, facts.cpu_s):
        raise BusyError(reason, hint="wait until midnight, when the count begins anew")


def spent(policy: Policy, cpu_s: float) -> str:
    """Why a user may use no processor any more today, for people; empty while there is some time left."""
    cap = policy.user.cpu_s_per_day
    if not cap or cpu_s < cap:
        return ""
    key = policy.where("user.cpu_s_per_day")
    return f"all of today's {cap} s of processor time are used up ({key})"


def check_tier(policy: Policy, tier: Tier, reason: str) -> None:
    """Refuse a host whose isolation is too weak.

    :param reason: why its isolation is no better.
    :raise DeniedError: names the key.
    """
    if policy.tier is Tier.HARDWARE and tier is not Tier.HARDWARE:
        key, why = policy.where("isolation.tier"), reason.partition("\n")[0]
        raise DeniedError(
            f"this host isolates by software only ({why}), and hardware is required ({key})",
            hint="use a host with KVM (see: hyper doctor), or allow software there",
        )


def asked_of(spec: SandboxSpec) -> tuple[str, ...]:
    """Names of what a request sets of that which policy gives otherwise."""
    isolation = ("isolation",) if spec.isolation == Tier.HARDWARE else ()
    return (*(name for name, value in asdict(amounts_of(spec)).items() if value), *isolation)


def only_asked(spec: SandboxSpec, asked: Iterable[str]) -> SandboxSpec:
    """An admitted spec as it was when it was asked for, for :func:`admit` by a policy that may have changed since.

    :param asked: see :func:`asked_of`.
    """
    amounts = {name: value for name, value in asdict(amounts_of(spec)).items() if name in asked}
    return _with_amounts(spec, Amounts(**amounts), spec.isolation if "isolation" in asked else Tier.SOFTWARE)


def amounts_of(spec: SandboxSpec) -> Amounts:
    """What a spec says of amounts."""
    return Amounts(memory_mib=spec.memory_mib, cpus=spec.cpus, **asdict(spec.limits))


def _with_amounts(spec: SandboxSpec, amounts: Amounts, isolation: str) -> SandboxSpec:
    limits = asdict(amounts)
    machine = {name: limits.pop(name) for name in ("memory_mib", "cpus")}
    return replace(spec, **machine, limits=Limits(**limits), isolation=str(isolation))


def _fill(policy: Policy, asked: Amounts) -> Amounts:
    """All amounts: what is asked for, else the default."""
    default = asdict(effective_default(policy))
    amounts = Amounts(**{name: value or default[name] for name, value in asdict(asked).items()})
    if asked.scratch_mib > amounts.memory_mib:
        raise RequestError(
            f"scratch space of {asked.scratch_mib} MiB does not fit into the memory of {amounts.memory_mib} MiB",
            hint="it is held in the sandbox's memory: ask for more memory, or for less scratch space",
        )
    if asked.scratch_mib:
        return amounts
    # Half of the memory, as tmpfs does by itself: the rest is the program's.
    scratch_mib = _least(default["scratch_mib"] or amounts.memory_mib // 2, policy.sandbox.scratch_mib)
    return replace(amounts, scratch_mib=_least(scratch_mib, amounts.memory_mib))


def effective_default(policy: Policy) -> Amounts:
    """What a sandbox gets that asks for nothing: a default is never above its cap."""
    default, cap = asdict(policy.default), asdict(policy.sandbox)
    capped = {name: _least(value, cap[name]) for name, value in default.items() if name != "scratch_mib"}
    return Amounts(**capped, scratch_mib=policy.default.scratch_mib)


def _least(value: Any, cap: Any) -> Any:
    """The smaller of two amounts; zero is no amount."""
    return min(value or cap, cap or value)


def _check_files_and_output(policy: Policy, spec: SandboxSpec) -> None:
    for mount in spec.mounts:
        # SECURITY: nothing of the host's is seen live, let alone written to, unless policy says so.
        if mount.mode not in policy.files:
            key, way = policy.where("files.modes"), "read" if mount.read_only else "written"
            hint = f'add "{mount.mode}" there if it may; or copy files in with: hyper cp'
            raise DeniedError(f"that a sandbox has {mount} is not allowed: no folder is {way} live ({key})", hint=hint)
    if spec.kernel is None:
        return
    # SECURITY: what is trusted runs in the browser of whoever opens the notebook; a kernelspec alone cannot have that.
    if spec.kernel.output == "trusted" and not policy.trusted_output:
        key = policy.where("output.trusted")
        raise DeniedError(f"output=trusted is not allowed ({key})", hint="leave it out; the policy can allow it")
    if spec.kernel.files not in policy.files:
        key, allowed = policy.where("files.modes"), " or ".join(policy.files)
        raise DeniedError(f"files={spec.kernel.files} is not allowed ({key})", hint=f"set files to {allowed}")
