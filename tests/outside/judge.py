"""Runs a suite and compares what failed with the list of known failures in the README."""

import re
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import workshop
from suites import Suite

#: Log lines of each test and warnings about other people's code would drown the rest.
PYTEST = (
    *("-P", "-m", "pytest", "-p", "no:cacheprovider", "-W", "ignore", "-o", "junit_family=xunit1"),
    *("-o", "asyncio_default_fixture_loop_scope=function", "-o", "log_cli=false", "--color=no"),
    # A test over its limit fails and the next one runs; by "thread" it would end the whole suite.
    *("-p", "time_limits", "-o", "timeout_method=signal", "--timeout=300"),
)
_ROW = re.compile(
    r"^\| (?P<suite>[^|]+?) \| `(?P<test>[^`]+)` \| (?P<kind>fails|too slow) \| (?P<reason>[^|]+?) \|$", re.M
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A row of the README's list: a test (with all its parameters, where it names none), and why it fails here."""

    suite: str
    test: str
    kind: str
    reason: str

    def covers(self, test: str) -> bool:
        """Whether this is about the test with this node id."""
        return test == self.test or test.startswith(f"{self.test}[")


@dataclass(slots=True)
class Verdict:
    """What came of a suite's tests: node ids by outcome, and what pytest printed."""

    outcomes: dict[str, str] = field(default_factory=dict)
    output: str = ""

    def failed(self) -> list[str]:
        """The tests that failed."""
        return [test for test, outcome in self.outcomes.items() if outcome == "failed"]

    def surprises(self, known: list[Known]) -> list[str]:
        """The tests that failed and are not known to."""
        return [test for test in self.failed() if not any(row.covers(test) for row in known)]

    def mended(self, known: list[Known]) -> list[str]:
        """The tests that are listed as failing, and did not."""
        failed = self.failed()
        return [row.test for row in known if row.kind == "fails" and not any(row.covers(test) for test in failed)]

    def __str__(self) -> str:
        counts = Counter(self.outcomes.values())
        return ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))


def read_known() -> list[Known]:
    """The list of known failures."""
    text = (workshop.FOLDER / "README.md").read_text()
    return [Known(**row.groupdict()) for row in _ROW.finditer(text)]


def run_suite(suite: Suite, python: Path, folder: Path, log: Path) -> Verdict:
    """Run a suite, unmodified.

    :param folder: empty; for its sources, its home and its results.
    :param log: where pytest's output goes while it runs.
    """
    source = workshop.unpack(suite.sdist, folder) if suite.sdist else workshop.FOLDER
    report = folder / "report.xml"
    argv = [python, *PYTEST, f"--rootdir={source}", f"--junitxml={report}", *suite.args, *suite.paths]
    env = workshop.environment(python, workshop.make_home(folder / "home")) | suite.env
    with open(log, "w") as output:
        subprocess.run(
            argv,
            cwd=source,
            env=env,
            stdout=output,
            stderr=output,
            timeout=suite.budget_s,
            check=False,
        )
    return Verdict(read_report(report, source), log.read_text(errors="replace"))


def read_report(report: Path, source: Path) -> dict[str, str]:
    """Outcomes by node id, of pytest's JUnit report; nothing where pytest did not come to write one.

    :param source: the folder of the tests, which the report's names begin at.
    """
    if not report.exists():
        return {}
    found = {}
    for case in ET.parse(report).iter("testcase"):
        test = f"{_find_class(case.attrib['classname'], source)}::{case.attrib['name']}"
        kinds = {child.tag for child in case}
        failed = kinds & {"failure", "error"}
        # A test has two entries when its teardown fails too: the worse one counts.
        if failed or found.get(test) != "failed":
            found[test] = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
    return found


def _find_class(name: str, source: Path) -> str:
    """The node id of a class, or of a module: its dotted name tells both (its file is where the test was inherited)."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        path = "/".join(words[:count]) + ".py"
        if (source / path).is_file():
            return "::".join([path, *words[count:]])
    return name
