"""``hyper run`` and ``hyper exec``: programs in sandboxes, with this terminal."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

from hyper_kernel.cli.arguments import Image, Live
from hyper_kernel.cli.crowd import Crowd, plan_names
from hyper_kernel.cli.terminal import Input, copy_output, forwarded_signals, raw_terminal, terminal_size
from hyper_kernel.client import Client, Stream
from hyper_kernel.errors import HyperError, RequestError
from hyper_kernel.limits import parse_bytes, parse_seconds, split_cpus
from hyper_kernel.sandbox.record import Record
from hyper_kernel.spec import Limits, Mount, Owner, ProcessSpec, SandboxSpec, parse_mount

_Command = Annotated[list[str] | None, typer.Argument(help="The program and its arguments.", show_default=False)]
_Interactive = Annotated[bool, typer.Option("--interactive", "-i", help="Pass standard input on.")]
_Tty = Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")]
_Env = Annotated[
    list[str] | None,
    typer.Option(
        "--env", "-e", help="A variable; NAME alone passes ours on.", show_default=False, metavar="NAME=VALUE"
    ),
]
_Workdir = Annotated[str, typer.Option("--workdir", "-w", help="Folder it starts in.")]
_User = Annotated[str, typer.Option("--user", "-u", help="Whom it runs as.")]
_Count = Annotated[
    int | None,
    typer.Option("--count", "-n", help="Run so many of it, 32 at a time; -d: all at once.", min=1, show_default=False),
]
_Volume = Annotated[
    list[str] | None,
    typer.Option(
        "--volume",
        "-v",
        help="A folder of this machine that it sees live, if policy allows it; see: hyper policy",
        show_default=False,
        metavar="HOST:GUEST[:ro|:rw]",
    ),
]
_Label = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", help="A word for you and your tools.", show_default=False, metavar="NAME=VALUE"),
]
_Memory = Annotated[str, typer.Option("--memory", "-m", help="Its memory, as in 512m or 2g.", show_default=False)]
_Cpus = Annotated[float, typer.Option(help="Its processors; 0.5 is one that it may use half of.", show_default=False)]
_Processes = Annotated[int, typer.Option(help="Processes and threads at most.", show_default=False)]
_Scratch = Annotated[str, typer.Option(help="What it may write at most.", metavar="size=SIZE", show_default=False)]
_Timeout = Annotated[
    str, typer.Option(help="How long it may live, as in 90s or 1h30m.", metavar="TIME", show_default=False)
]


def run(
    image: Image,
    command: _Command = None,
    interactive: _Interactive = False,
    tty: _Tty = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Leave it running, print its id.")] = False,
    count: _Count = None,
    remove: Annotated[bool, typer.Option("--rm", help="Remove the sandbox when it has exited.")] = False,
    name: Annotated[str, typer.Option(help="What to call the sandbox.")] = "",
    memory: _Memory = "0",
    cpus: _Cpus = 0.0,
    pids_limit: _Processes = 0,
    storage_opt: _Scratch = "",
    timeout: _Timeout = "0",
    env: _Env = None,
    workdir: _Workdir = "",
    user: _User = "",
    label: _Label = None,
    volume: _Volume = None,
    hostname: Annotated[str, typer.Option("--hostname", "-h", help="What it calls itself.")] = "",
    entrypoint: Annotated[
        str | None, typer.Option(help="What runs in place of the image's entrypoint.", show_default=False)
    ] = None,
) -> None:
    """Run a program in a new sandbox; options after IMAGE belong to the program.

    What is not asked for is as hyperd's policy says, and what is asked for is refused above its caps; see: hyper policy

    Exits with the program's code (of many, the highest); 125 where Hyper Kernel failed, 126 and 127 as a shell.
    """
    _check_terminal(interactive=interactive, tty=tty)
    if count and (interactive or tty):
        raise RequestError("one input or terminal cannot be shared by many", hint="leave out -i and -t, or -n")
    client = Client()
    argv = plan_argv(client, image, command or [], entrypoint)
    process = ProcessSpec(argv=argv, env=plan_env(env or []), cwd=workdir, user=user, tty=tty, open_stdin=interactive)
    whole_cpus, limits = plan_limits(cpus, pids_limit, storage_opt, timeout)
    spec = SandboxSpec(
        image=image,
        memory_mib=-(-parse_bytes(memory) >> 20),
        cpus=whole_cpus,
        hostname=hostname,
        labels=dict(_pair(text) for text in label or []),
        auto_remove=remove,
        process=process,
        mounts=tuple(map(plan_mount, volume or [])),
        limits=limits,
        # On a terminal people can leave it running (ctrl-p ctrl-q).
        owner=find_owner() if remove and not detach and not tty else None,
    )
    if count:
        crowd = Crowd(client, spec, plan_names(name, count))
        raise typer.Exit(crowd.start() if detach else crowd.run())
    record = client.create(spec, name)
    if detach:
        client.start(record.id)
        print(record.id)
        return
    raise typer.Exit(_run_attached(client, record))


def exec_(
    sandbox: Live,
    command: Annotated[list[str], typer.Argument(help="The program and its arguments.", show_default=False)],
    interactive: _Interactive = False,
    tty: _Tty = False,
    env: _Env = None,
    workdir: _Workdir = "",
    user: _User = "",
) -> None:
    """Run another program in a sandbox that runs; options after SANDBOX belong to the program."""
    _check_terminal(interactive=interactive, tty=tty)
    client = Client()
    size = terminal_size() if tty and sys.stdin.isatty() else None
    started = client.exec(
        sandbox, command, env=plan_env(env or []), cwd=workdir, user=user, tty=tty, stdin=interactive, size=size
    )

    def resize(rows: int, cols: int) -> None:
        with contextlib.suppress(HyperError):
            client.resize_exec(started.id, rows, cols)

    with _joined(started.stream, interactive=interactive, resize=resize if size else None):
        copy_output(started.stream)
    raise typer.Exit(max(client.exec_code(started.id), 0))


def plan_argv(client: Client, image: str, command: list[str], entrypoint: str | None) -> tuple[str, ...]:
    """The command line by Docker's rules; empty where it is all the image's."""
    if entrypoint is not None:
        return (*shlex.split(entrypoint), *command)
    if not command:
        return ()
    config = client.image(image)["Config"]
    return (*(config["Entrypoint"] or ()), *command)


def plan_limits(cpus: float, processes: int, storage_opt: str, timeout: str) -> tuple[int, Limits]:
    """Whole processors, and limits, from options in Docker's words; zero and empty ones are left to policy.

    :raise RequestError: the storage option is not ``size=SIZE``, or what should be a size or a time is none.
    """
    whole_cpus, cpu_percent = split_cpus(cpus)
    name, _, size = storage_opt.partition("=")
    if name not in ("", "size"):
        raise RequestError(f"storage option {name} is not known", hint="write --storage-opt size=2g")
    return whole_cpus, Limits(
        cpu_percent=cpu_percent,
        scratch_mib=-(-parse_bytes(size) >> 20) if name else 0,
        processes=max(0, processes),
        wall_s=parse_seconds(timeout),
    )


def plan_mount(text: str) -> Mount:
    """A folder to share, ``HOST:GUEST[:ro|:rw]``; HOST may be below the folder that this runs in.

    :raise RequestError: it is none.
    """
    source = text.partition(":")[0]
    if not source.startswith(("/", ".")):
        raise RequestError(f"{source!r} is no path of a folder, and there are no volumes", hint=f"write ./{text}")
    return parse_mount(os.path.abspath(source) + text[len(source) :])


def find_owner() -> Owner:
    """This process, for a sandbox that shall not outlive it."""
    # Loaded only here: asyncio, which comes with it, takes a fifth of the time that this command needs to load.
    from hyper_kernel.host.process import read_start_ticks  # noqa: PLC0415

    return Owner(pid=os.getpid(), start_ticks=read_start_ticks(os.getpid()))


def plan_env(entries: list[str]) -> tuple[str, ...]:
    """``NAME=value`` entries; a bare NAME takes our value, and is left out where we have none.

    :raise RequestError: an entry has no name.
    """
    planned = []
    for entry in entries:
        name, equals, _ = entry.partition("=")
        if not name:
            raise RequestError(f"{entry!r} names no variable", hint="write NAME=value")
        if equals:
            planned.append(entry)
        elif name in os.environ:
            planned.append(f"{name}={os.environ[name]}")
    return tuple(planned)


def _run_attached(client: Client, record: Record) -> int:
    """Start a sandbox and stay with it to its end; the exit code."""
    process, stream = record.spec.process, client.attach(record.id, stdin=record.spec.process.open_stdin)

    def resize(rows: int, cols: int) -> None:
        with contextlib.suppress(HyperError):
            client.resize(record.id, rows, cols)

    def send(name: str) -> None:
        with contextlib.suppress(HyperError):
            try:
                client.kill(record.id, name)
            except HyperError:  # not up yet: nothing in it can take a signal, so it ends here
                client.kill(record.id, "KILL")

    condition = "removed" if record.spec.auto_remove else "next-exit"
    with client.waiting(record.id, condition) as ends, forwarded_signals(send):
        client.start(record.id)
        wants_raw = process.tty and sys.stdin.isatty()
        with _joined(stream, interactive=process.open_stdin, resize=resize if wants_raw else None) as keys:
            copy_output(stream)
        if keys and keys.detached and process.tty:
            print(record.id[:12], file=sys.stderr)
            return 0
        end = next(ends)
    if end.reason and end.code:
        print(f"hyper: {record.name} ended: {end.reason}", file=sys.stderr)
    return end.code


@contextmanager
def _joined(stream: Stream, *, interactive: bool, resize: Callable[[int, int], None] | None) -> Iterator[Input | None]:
    """Join our input to a program while the context lasts.

    :param resize: given where our terminal is to pass everything on.
    """
    with ExitStack() as stack:
        stack.callback(stream.close)
        if resize:
            stack.enter_context(raw_terminal(resize))
        yield Input(stream) if interactive else None


def _check_terminal(*, interactive: bool, tty: bool) -> None:
    if interactive and tty and not sys.stdin.isatty():
        raise RequestError("standard input is not a terminal", hint="leave out -t")


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value
