"""The magics ``%%hyper`` and ``%hyper``."""

import getpass
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from IPython.core.magic import Magics, cell_magic, line_magic, magics_class

from hyper_kernel.client import Client
from hyper_kernel.errors import GuestError, HyperError, NotFoundError, RequestError
from hyper_kernel.magics.commands import run_commands
from hyper_kernel.magics.failure import line_failure, own_failure, sandbox_failure
from hyper_kernel.magics.interrupts import interrupts_to
from hyper_kernel.magics.options import CellPlan, nearest, parse_line
from hyper_kernel.magics.programs import run_alone, run_in_kernel
from hyper_kernel.magics.screen import Screen
from hyper_kernel.session import Session
from hyper_kernel.session.carry import pack_variables, put_variables, take_variables

_GONE = "the next cell with this name starts afresh"


@magics_class
class HyperMagics(Magics):
    """Runs cells in sandboxes, and remembers those that have a name."""

    shell: Any

    def __init__(self, shell: Any, client: Client | None = None) -> None:
        super().__init__(shell)
        self.client = client or Client()
        self._named: dict[str, tuple[Session, dict[str, Any]]] = {}

    @line_magic("hyper")  # type: ignore[arg-type]  # IPython's decorators say that they take no function
    def command(self, line: str) -> None:
        """Hyper Kernel's command line.

        `%hyper` lists the commands, `%hyper ps` the sandboxes, `%hyper images` the images; `%hyper COMMAND --help`
        says what a command takes.
        """
        try:
            run_commands(shlex.split(line) or ["--help"])
        except HyperError as exc:
            raise own_failure(exc) from None

    @cell_magic("hyper")  # type: ignore[arg-type]  # as above
    def cell(self, line: str, cell: str) -> None:
        """Run this cell in a sandbox: a virtual machine of its own.

            %%hyper [IMAGE] [bash|sh] [OPTIONS]

        IMAGE     what the sandbox starts from (hyper/python:latest); list them with %hyper images
        bash, sh  run the cell as a script, in place of the image's Jupyter kernel

        --name NAME      keep the sandbox, and what the cell left in it, for cells with the same NAME. Without, a cell
                         has a fresh sandbox, which is removed afterwards
        --fresh          begin anew under that NAME
        --in a,b         variables that go in: numbers, texts, lists, dicts, NumPy arrays, data frames and such;
                         for a script as environment variables
        --out c          variables that come out; of a script, its standard output as a text
        --memory SIZE    its memory, as in 512m or 2g          --cpus N    its processors
        --timeout TIME   how long a cell may run, as in 90s    --stdin     the cell may ask with input()
        --files copy     a copy of this notebook's folder at /work; ro, rw: itself, where policy allows that;
                         without, it sees no files of yours
        --script PROG    run the cell with this program: --script "perl -w"

        What it shows appears here, and what it raises fails this cell. An interrupt interrupts it, a second one no
        longer waits for it. Nothing that it does reaches this machine, but through --out.
        """
        try:
            plan = parse_line(line)
            run = self._run_program if plan.program else self._run_cell
            found = run(plan, self._inputs(plan), cell)
            self.shell.user_ns.update(found)
        except NotFoundError as exc:
            exc.hint = self._nearest_image(line) or exc.hint
            raise own_failure(exc) from None
        except HyperError as exc:
            raise own_failure(exc) from None

    def close(self) -> None:
        """Remove the sandboxes that have names."""
        while self._named:
            self._forget(next(iter(self._named)))

    def names(self) -> list[str]:
        """Names of sandboxes that cells may use."""
        return sorted(self._named)

    def images(self) -> list[str]:
        """Names of images, where hyperd runs."""
        try:
            return [name for image in Client(start=False).images() for name in image["RepoTags"]]
        except HyperError:
            return []

    def variables(self) -> list[str]:
        """Names of the notebook's variables."""
        hidden = self.shell.user_ns_hidden
        return [name for name in self.shell.user_ns if not name.startswith("_") and name not in hidden]

    def _run_cell(self, plan: CellPlan, inputs: dict[str, Any], cell: str) -> dict[str, Any]:
        """Run a cell in a kernel; the variables that came out."""
        packed = pack_variables(inputs)
        with self._session(plan) as session, interrupts_to(session.interrupt):
            if inputs:
                put_variables(session, packed)
            screen = Screen(self.shell, session.id[:12])
            reply = session.execute(cell, shows=screen, asks=_ask if plan.stdin else None)
            _check(reply, screen)
            return take_variables(session, plan.outputs) if plan.outputs else {}

    def _run_program(self, plan: CellPlan, inputs: dict[str, Any], cell: str) -> dict[str, Any]:
        """Run a cell as a program; its output, if that is wanted."""
        env, screen = _environment(inputs), Screen(self.shell, "", captures=bool(plan.outputs))
        if plan.needs_kernel:
            with self._session(plan) as session, interrupts_to(session.interrupt):
                code = run_in_kernel(session, plan.program, env, cell, screen)
        else:
            code = run_alone(self.client, plan.spec(os.getcwd()), plan.program, env, cell, screen)
        if code:
            raise line_failure(f"{plan.program[0]} exited with {code}")
        return dict.fromkeys(plan.outputs, screen.text)

    @contextmanager
    def _session(self, plan: CellPlan) -> Iterator[Session]:
        """The sandbox for a cell; one without a name ends with the context.

        :raise RequestError: it is another than the one of that name.
        """
        if not plan.name:
            with Session.start(self.client, plan.spec(os.getcwd())) as session:
                yield session
            return
        if plan.name in self._named and (plan.fresh or not self._named[plan.name][0].is_alive()):
            self._forget(plan.name)
        if plan.name not in self._named:
            started = Session.start(self.client, plan.spec(os.getcwd()), name=plan.name)
            self._named[plan.name] = started, plan.asked()
        session, asked = self._named[plan.name]
        if other := {key for key, value in plan.asked().items() if asked.get(key) != value}:
            raise RequestError(
                f"sandbox {plan.name} was started with another {', '.join(sorted(other))}",
                hint="leave that out, or begin anew with --fresh",
            )
        try:
            yield session
        except GuestError as exc:
            if session.end:
                exc.hint = exc.hint or _GONE
            raise

    def _forget(self, name: str) -> None:
        session, _ = self._named.pop(name)
        session.close()

    def _inputs(self, plan: CellPlan) -> dict[str, Any]:
        """The variables that go in.

        :raise RequestError: there is no such one; names what is nearest.
        """
        for name in plan.inputs:
            if name not in self.shell.user_ns:
                raise RequestError(f"there is no variable {name} here", hint=nearest(name, self.variables()))
        return {name: self.shell.user_ns[name] for name in plan.inputs}

    def _nearest_image(self, line: str) -> str:
        return nearest(parse_line(line).image, self.images())


def _environment(variables: dict[str, Any]) -> tuple[str, ...]:
    """Variables as a program's environment.

    :raise RequestError: one is no text or number.
    """
    for name, value in variables.items():
        if not isinstance(value, str | int | float):
            raise RequestError(f"{name} is a {type(value).__name__}; a program takes texts and numbers")
    return tuple(f"{name}={value}" for name, value in variables.items())


def _check(reply: dict[str, Any], screen: Screen) -> None:
    """Fail as the cell did.

    :raise CellError: it did.
    """
    if screen.failure:
        raise screen.failure
    if reply.get("status") != "ok":
        raise sandbox_failure(reply)
    for item in reply.get("payload") or ():
        if isinstance(item, dict) and item.get("source") == "page":
            screen("display_data", {"data": item.get("data")})


def _ask(prompt: str, is_password: bool) -> str:
    return getpass.getpass(prompt) if is_password else input(prompt)
