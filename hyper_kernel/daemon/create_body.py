"""From the body of Docker's POST /containers/create to what is wanted of a sandbox; pure.

What Docker offers and Hyper Kernel does not is refused when it would change security, data or reach (volumes, ports,
devices, networks ...), and accepted where it only tunes what a sandbox does not have (OOM score, swappiness ...).
"""

from typing import Any

from hyper_kernel.daemon.errors import NotHereError
from hyper_kernel.errors import RequestError
from hyper_kernel.limits import parse_bytes, split_cpus
from hyper_kernel.oci.layout import ImageConfig
from hyper_kernel.spec import Limits, Mount, ProcessSpec, SandboxSpec, parse_mount

#: HostConfig fields that are refused unless empty, and what to do instead.
_REFUSED = {
    "Tmpfs": "every sandbox writes to memory already",
    "VolumesFrom": "volumes are not in this version",
    "Devices": "a sandbox has a machine of its own and no device of the host",
    "DeviceRequests": "a sandbox has a machine of its own and no device of the host",
    "DeviceCgroupRules": "a sandbox has a machine of its own and no device of the host",
    "Privileged": "a sandbox is never privileged on the host; root inside it is root of its own machine",
    "CapAdd": "programs in a sandbox have the capabilities of their user in their own machine",
    "CapDrop": "programs in a sandbox have the capabilities of their user in their own machine",
    "SecurityOpt": "the boundary is the machine; profiles of the host's kernel do not apply",
    "PortBindings": "a sandbox has no network in this version",
    "PublishAllPorts": "a sandbox has no network in this version",
    "Links": "a sandbox has no network in this version",
    "ExtraHosts": "a sandbox has no network in this version",
    "Dns": "a sandbox has no network in this version",
    "GroupAdd": "additional groups are not in this version",
    "ReadonlyRootfs": "a read-only root is not in this version",
    "Sysctls": "kernel parameters are not in this version",
    "Ulimits": "limits of processes are not in this version",
    "CpusetCpus": "a sandbox has processors of its own; use --cpus",
    "ContainerIDFile": "write the id to a file yourself",
}
#: The annotation for what Docker has no word for: how long a sandbox may live, in seconds.
WALL_S = "hyper.wall_s"
#: CpuPeriod where it is left out, in microseconds, as in Docker.
_CPU_PERIOD = 100_000
_NETWORKS = frozenset({"", "default", "none", "bridge", "nat"})
_RUNTIMES = frozenset({"", "hyper"})
_NO_VOLUMES = "share a folder of this host, if policy allows it, or copy files in with: docker cp"
_PRIVATE_MODES = ("PidMode", "IpcMode", "UTSMode", "UsernsMode", "CgroupnsMode", "Cgroup")


def plan_sandbox(body: dict[str, Any], image: ImageConfig) -> SandboxSpec:
    """The spec a create request asks for.

    :param image: what the image says, for the entrypoint and command that the request leaves out.
    :raise NotHereError: it asks for what a sandbox does not have.
    :raise RequestError: a field has a wrong shape or a value outside its limits.
    """
    host = body.get("HostConfig") or {}
    if not isinstance(host, dict):
        raise RequestError("HostConfig is not an object")
    _refuse(body, host)
    argv = plan_argv(_words(body, "Entrypoint"), _words(body, "Cmd"), image)
    process = ProcessSpec(
        argv=argv,
        env=plan_env(_words(body, "Env") or ()),
        cwd=_text(body, "WorkingDir"),
        user=_text(body, "User"),
        tty=bool(body.get("Tty")),
        open_stdin=bool(body.get("OpenStdin")),
    )
    cpus, cpu_percent = _cpus(host)
    return SandboxSpec(
        image=_text(body, "Image"),
        memory_mib=-(-_number(host, "Memory") >> 20),
        cpus=cpus,
        hostname=_text(body, "Hostname"),
        labels=_labels(body),
        auto_remove=bool(host.get("AutoRemove")),
        process=process,
        mounts=_mounts(host),
        limits=Limits(
            cpu_percent=cpu_percent,
            scratch_mib=_scratch_mib(host),
            processes=max(0, _number(host, "PidsLimit", least=-1)),
            wall_s=_wall_s(host),
        ),
    )


def plan_argv(entrypoint: tuple[str, ...] | None, cmd: tuple[str, ...] | None, image: ImageConfig) -> tuple[str, ...]:
    """The command line, by Docker's rules: an entrypoint of the request's own drops the image's command.

    :raise RequestError: neither says what to run.
    """
    if entrypoint is None:
        argv = (*image.entrypoint, *(cmd or image.cmd))
    else:
        # `--entrypoint ""` is sent as [""] and means none
        argv = (*(word for word in entrypoint if entrypoint != ("",)), *(cmd or ()))
    if not argv:
        raise RequestError("no command specified", hint="give a command after the image's name")
    return argv


def plan_env(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Environment entries without those that only unset a name.

    :raise RequestError: an entry has no name.
    """
    for entry in entries:
        if entry.startswith("=") or not entry:
            raise RequestError(f"invalid environment variable: {entry}", hint="write NAME=value")
    return tuple(entry for entry in entries if "=" in entry)


def _refuse(body: dict[str, Any], host: dict[str, Any]) -> None:
    for name, why in _REFUSED.items():
        if host.get(name):
            raise NotHereError(f"HostConfig.{name} is not supported by Hyper Kernel", hint=why)
    mode = str(host.get("NetworkMode") or "")
    if mode not in _NETWORKS:
        raise NotHereError(f"network mode {mode!r} is not supported by Hyper Kernel", hint="use --network none")
    if str(host.get("Isolation") or "default") != "default":
        raise NotHereError("HostConfig.Isolation: every sandbox is a virtual machine", hint="leave it out")
    if str(host.get("Runtime") or "") not in _RUNTIMES:
        raise NotHereError(f"unknown or invalid runtime name: {host['Runtime']}", hint="leave out --runtime")
    for name in _PRIVATE_MODES:
        if (value := str(host.get(name) or "")) not in ("", "private"):
            raise NotHereError(f"HostConfig.{name}={value!r}: a sandbox shares nothing", hint="leave it out")
    policy = (host.get("RestartPolicy") or {}).get("Name") or "no"
    if policy != "no":
        raise NotHereError(f"restart policy {policy!r} is not supported by Hyper Kernel", hint="leave out --restart")
    if body.get("Volumes"):
        raise NotHereError("volumes are not supported by Hyper Kernel yet", hint="copy files in with: docker cp")
    test = (body.get("Healthcheck") or {}).get("Test") or ["NONE"]
    if test != ["NONE"]:
        raise NotHereError("health checks are not supported by Hyper Kernel", hint="leave out --health-cmd")


def _mounts(host: dict[str, Any]) -> tuple[Mount, ...]:
    """The folders that are to be seen live, of Binds (``docker run -v``) and Mounts (``--mount``)."""
    binds, mounts = host.get("Binds") or [], host.get("Mounts") or []
    if not isinstance(binds, list) or not all(isinstance(bind, str) for bind in binds):
        raise RequestError("HostConfig.Binds is not a list of strings")
    if not isinstance(mounts, list) or not all(isinstance(mount, dict) for mount in mounts):
        raise RequestError("HostConfig.Mounts is not a list of objects")
    return (*map(_bind, binds), *map(_mount, mounts))


def _bind(bind: str) -> Mount:
    if not bind.startswith("/"):
        raise NotHereError(f"volume {bind.partition(':')[0]!r}: there are no volumes in this version", hint=_NO_VOLUMES)
    return parse_mount(bind)


def _mount(mount: dict[str, Any]) -> Mount:
    if (kind := mount.get("Type")) != "bind":
        raise NotHereError(f"mounts of type {kind!r} are not in this version", hint=_NO_VOLUMES)
    options = mount.get("BindOptions") or {}
    if not isinstance(options, dict) or str(options.get("Propagation") or "rprivate") not in ("rprivate", "private"):
        raise NotHereError("BindOptions: a guest's mounts are its own", hint="leave out bind-propagation")
    return Mount(source=_text(mount, "Source"), target=_text(mount, "Target"), read_only=bool(mount.get("ReadOnly")))


def _words(body: dict[str, Any], name: str) -> tuple[str, ...] | None:
    """A field that is a list of strings, or one string; None where it is absent or null."""
    value = body.get(name)
    if value is None:
        return None
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise RequestError(f"{name} is not a list of strings")
    return tuple(value) or None


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name) or ""
    if not isinstance(value, str):
        raise RequestError(f"{name} is not a string")
    return value


def _labels(body: dict[str, Any]) -> dict[str, str]:
    labels = body.get("Labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise RequestError("Labels is not an object of strings")
    return labels


def _number(host: dict[str, Any], name: str, *, least: int = 0) -> int:
    value = host.get(name) or 0
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise RequestError(f"HostConfig.{name}={value!r} is not a positive whole number")
    return value


def _cpus(host: dict[str, Any]) -> tuple[int, int]:
    """Whole processors, and their share in per cent of one; zero: as policy says.

    A machine cannot have less than one processor, but it can have a share of it: 1.5 are two with 150 %.
    """
    nano, count = _number(host, "NanoCpus"), _number(host, "CpuCount")
    quota, period = _number(host, "CpuQuota", least=-1), _number(host, "CpuPeriod") or _CPU_PERIOD
    if quota > 0 and nano:
        raise RequestError("NanoCpus and CpuQuota are both set", hint="use one of --cpus and --cpu-quota")
    nano = quota * 10**9 // period if quota > 0 else nano
    return split_cpus(nano / 10**9, count)


def _scratch_mib(host: dict[str, Any]) -> int:
    options = host.get("StorageOpt") or {}
    if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
        raise RequestError("HostConfig.StorageOpt is not an object of strings")
    for name in options:
        if name != "size":
            raise NotHereError(f"storage option {name} is not supported by Hyper Kernel", hint="there is only size=2g")
    return -(-parse_bytes(options["size"]) >> 20) if options else 0


def _wall_s(host: dict[str, Any]) -> float:
    notes = host.get("Annotations") or {}
    if not isinstance(notes, dict):
        raise RequestError("HostConfig.Annotations is not an object")
    for name in notes:
        if name.startswith("hyper.") and name != WALL_S:
            raise NotHereError(
                f"annotation {name} is not known to Hyper Kernel", hint=f"there is only {WALL_S}=SECONDS"
            )
    try:
        return float(notes.get(WALL_S, 0))
    except (TypeError, ValueError):
        raise RequestError(f"{WALL_S}={notes[WALL_S]!r} is not a number of seconds") from None
