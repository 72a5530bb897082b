"""What hyperd decides without doing anything: requests read, lists filtered, times and words."""

import asyncio
import json
import os
import time

import pytest

from hyper_kernel import errors
from hyper_kernel.daemon import docker_json
from hyper_kernel.daemon import errors as daemon_errors
from hyper_kernel.daemon.create_body import plan_argv, plan_sandbox
from hyper_kernel.daemon.errors import NotHereError, as_json
from hyper_kernel.daemon.events import KEPT, Events
from hyper_kernel.daemon.filters import CONTAINER_FILTERS, _is_match, parse_filters
from hyper_kernel.daemon.logs import LogQuery, _render, _tail, parse_tail, parse_time
from hyper_kernel.daemon.names import check_name, new_name
from hyper_kernel.daemon.routing import Answer, Routes, strip_version
from hyper_kernel.daemon.server import is_allowed_peer
from hyper_kernel.daemon.shims import kill_recorded, started_s
from hyper_kernel.daemon.signals import parse_signal
from hyper_kernel.daemon.streams import DetachKeys, encode
from hyper_kernel.errors import RequestError
from hyper_kernel.oci.layout import ImageConfig
from hyper_kernel.sandbox.record import Record, State
from hyper_kernel.sandbox.words import duration_text, printable, size_text, status_text
from hyper_kernel.spec import KernelSpec, Limits, SandboxSpec
from hyper_kernel.wire import Type

IMAGE = ImageConfig(entrypoint=("tini", "--"), cmd=("python3",), labels={})
#: What `docker run hyper/python` sends, shortened to what is not empty, and a few of its many empty fields.
PLAIN = {
    "Image": "hyper/python",
    "Cmd": None,
    "Entrypoint": None,
    "AttachStdout": True,
    "Labels": {},
    "Volumes": None,
    "HostConfig": {
        "Binds": None,
        "NetworkMode": "bridge",
        "PortBindings": {},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "ConsoleSize": [0, 0],
        "Dns": [],
        "MemorySwappiness": -1,
        "PidsLimit": 0,
        "Privileged": False,
        "CgroupnsMode": "",
    },
    "NetworkingConfig": {"EndpointsConfig": {"bridge": {}}},
}


def plan(host=None, **fields):
    return plan_sandbox({**PLAIN, **fields, "HostConfig": {**PLAIN["HostConfig"], **(host or {})}}, IMAGE)


def test_a_plain_request_of_dockers_becomes_a_spec():
    spec = plan()
    assert spec.image == "hyper/python"
    assert spec.process.argv == ("tini", "--", "python3")
    assert (spec.memory_mib, spec.cpus, spec.auto_remove, spec.limits) == (0, 0, False, Limits())


def test_what_is_asked_for_is_in_the_spec():
    spec = plan(
        {"Memory": (1 << 30) + 1, "NanoCpus": 1_500_000_000, "AutoRemove": True},
        Cmd=["ls", "-l"],
        Env=["A=1", "GONE"],
        WorkingDir="/srv",
        User="ada",
        Tty=True,
        OpenStdin=True,
        Labels={"a": "b"},
        Hostname="h",
    )
    assert (spec.memory_mib, spec.cpus, spec.auto_remove, spec.hostname) == (1025, 2, True, "h")
    process = spec.process
    assert process.argv == ("tini", "--", "ls", "-l")
    assert (process.env, process.cwd, process.user, process.tty, process.open_stdin) == (
        ("A=1",),
        "/srv",
        "ada",
        True,
        True,
    )


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "argv"),
    [
        (None, None, ("tini", "--", "python3")),
        (None, ("ls",), ("tini", "--", "ls")),
        (("sh",), None, ("sh",)),
        (("sh", "-c"), ("ls",), ("sh", "-c", "ls")),
        (("",), ("ls",), ("ls",)),
    ],
)
def test_entrypoint_and_command_join_by_dockers_rules(entrypoint, cmd, argv):
    assert plan_argv(entrypoint, cmd, IMAGE) == argv


@pytest.mark.parametrize(
    "host",
    [
        {"Binds": ["volume:/data"]},
        {"Mounts": [{"Type": "volume", "Source": "v", "Target": "/data"}]},
        {"Mounts": [{"Type": "tmpfs", "Target": "/data"}]},
        {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": {"Propagation": "rshared"}}]},
        {"Privileged": True},
        {"Devices": [{"PathOnHost": "/dev/sda"}]},
        {"PortBindings": {"80/tcp": [{"HostPort": "80"}]}},
        {"PublishAllPorts": True},
        {"NetworkMode": "host"},
        {"NetworkMode": "container:x"},
        {"PidMode": "host"},
        {"IpcMode": "host"},
        {"CapAdd": ["SYS_ADMIN"]},
        {"SecurityOpt": ["seccomp=unconfined"]},
        {"RestartPolicy": {"Name": "always"}},
        {"Runtime": "runc"},
        {"StorageOpt": {"dm.basesize": "1g"}},
        {"Annotations": {"hyper.cell_s": "1"}},
        {"ReadonlyRootfs": True},
    ],
)
def test_what_a_sandbox_does_not_have_is_refused_and_not_ignored(host):
    with pytest.raises(NotHereError) as caught:
        plan(host)
    assert caught.value.hint
    assert caught.value.http_status == 501


@pytest.mark.parametrize(
    "fields",
    [
        {"Cmd": [1]},
        {"Env": ["=x"]},
        {"Labels": ["x"]},
        {"WorkingDir": 1},
        {"HostConfig": {"Memory": -5}},
        {"HostConfig": {"PidsLimit": -2}},
        {"HostConfig": {"PidsLimit": True}},
        {"HostConfig": {"NanoCpus": 1, "CpuQuota": 1}},
        {"HostConfig": {"StorageOpt": {"size": "big"}}},
        {"HostConfig": {"StorageOpt": ["size"]}},
        {"HostConfig": {"Annotations": {"hyper.wall_s": "soon"}}},
        {"HostConfig": {"Annotations": {"hyper.wall_s": "nan"}}},
        {"HostConfig": {"Annotations": ["x"]}},
    ],
)
def test_a_field_of_a_wrong_shape_is_refused(fields):
    with pytest.raises(RequestError):
        plan_sandbox({**PLAIN, **fields}, IMAGE)


@pytest.mark.parametrize(
    ("host", "cpus", "limits"),
    [
        ({"PidsLimit": 100}, 0, Limits(processes=100)),
        ({"PidsLimit": -1, "CpuQuota": -1, "Annotations": {"org.else": "1"}}, 0, Limits()),
        ({"NanoCpus": 500_000_000}, 1, Limits(cpu_percent=50)),
        ({"NanoCpus": 2_000_000_000}, 2, Limits()),
        ({"NanoCpus": 1_500_000_000, "CpuCount": 4}, 4, Limits(cpu_percent=150)),
        ({"CpuQuota": 25_000}, 1, Limits(cpu_percent=25)),
        ({"CpuQuota": 300_000, "CpuPeriod": 200_000}, 2, Limits(cpu_percent=150)),
        ({"StorageOpt": {"size": "1g"}}, 0, Limits(scratch_mib=1024)),
        ({"Annotations": {"hyper.wall_s": "90.5"}}, 0, Limits(wall_s=90.5)),
    ],
)
def test_limits_in_dockers_words(host, cpus, limits):
    spec = plan(host)
    assert (spec.cpus, spec.limits) == (cpus, limits)


def test_memory_below_the_least_is_refused_with_the_limit():
    with pytest.raises(RequestError, match="192"):
        plan({"Memory": 6 << 20})


def test_every_family_of_errors_has_a_status_and_comes_back_as_itself():
    families = [errors.RequestError, *errors.RequestError.__subclasses__(), *errors.HyperError.__subclasses__()]
    for family in families:
        error = family("what", hint="do")
        assert error.http_status >= 400
        if family.__module__ == errors.__name__:
            assert as_json(error) == {"message": "what", "hint": "do", "kind": family.__name__}
    assert daemon_errors.AlreadyError("x").http_status == 304
    assert as_json(errors.GuestError("no \x1b]0;title\x07 such\x9b"))["message"] == "no ?]0;title? such?"
    assert as_json(NotHereError("x"))["kind"] == "RequestError"


def test_a_version_before_the_path_is_taken_off_and_checked():
    assert strip_version("/v1.47/containers/json") == "/containers/json"
    assert strip_version("/containers/json") == "/containers/json"
    with pytest.raises(RequestError, match="too old"):
        strip_version("/v1.23/info")
    with pytest.raises(RequestError, match="too new"):
        strip_version("/v1.48/info")


def test_routes_match_templates():
    async def handler(call):
        return Answer()

    routes = Routes()
    routes.add("GET", "/images/{name:path}/json", handler)
    routes.add("GET", "/containers/{id}/json", handler)
    assert routes.find("GET", "/images/hyper/python:latest/json") == (handler, {"name": "hyper/python:latest"})
    assert routes.find("GET", "/containers/a/b/json") is None
    assert routes.find("POST", "/containers/a/json") is None


def test_filters_have_both_of_dockers_forms():
    assert parse_filters('{"name": ["a"], "label": {"x=y": true, "no": false}}', CONTAINER_FILTERS) == {
        "name": ["a"],
        "label": ["x=y"],
    }
    for bad in ("{", "[]", '{"name": 1}', '{"unknown": ["x"]}'):
        with pytest.raises(RequestError, match="invalid filter"):
            parse_filters(bad, CONTAINER_FILTERS)


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [("ad", "ada", True), ("^/ada$", "ada", True), ("^da", "ada", False), ("da$", "ada", True), (r"a\.b", "a.b", True)],
)
def test_name_filters(pattern, name, matches):
    assert _is_match(pattern, name) is matches


def entry(text, stream="stdout", time="2026-01-02T03:04:05.000000Z"):
    return {"log": text, "stream": stream, "time": time}


@pytest.mark.parametrize(
    ("pieces", "tail", "text"),
    [
        (["a\nb\n", "c\n"], 2, "b\nc\n"),
        (["a\nb\n", "c"], 2, "b\nc"),
        (["a\nb", "c\nd\n"], 2, "bc\nd\n"),
        (["a\n"], 0, ""),
        (["a\n", "b\n"], None, "a\nb\n"),
    ],
)
def test_a_tail_counts_lines_whatever_the_pieces(pieces, tail, text):
    query = LogQuery(kinds=frozenset({Type.STDOUT}), tail=tail)
    assert "".join(piece["log"] for piece in _tail([entry(each) for each in pieces], query)) == text


def test_times_stand_before_each_line_and_frames_around_each_piece():
    query = LogQuery(kinds=frozenset({Type.STDERR}), timestamps=True)
    stamp = b"2026-01-02T03:04:05.000000Z "
    assert _render(entry("a\nb\n", "stderr"), query, raw=True) == stamp + b"a\n" + stamp + b"b\n"
    assert encode(Type.STDERR, b"abc", raw=False) == b"\x02\0\0\0\0\0\0\x03abc"


def test_times_and_tails_of_requests():
    assert parse_time("1.5", 0) == 1.5
    assert parse_time("", 7) == parse_time("0", 7) == 7
    assert parse_time("1970-01-01T00:01:00Z", 0) == 60
    assert (parse_tail("all"), parse_tail("-1"), parse_tail("5")) == (None, None, 5)
    for parse in (parse_tail, lambda text: parse_time(text, 0)):
        with pytest.raises(RequestError):
            parse("soon")


def test_detach_keys_are_found_over_pieces_and_held_back():
    keys = DetachKeys("")
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"c\x10") == (b"\x10c", False)
    assert keys.feed(b"\x11more") == (b"", True)
    assert DetachKeys("a,b").feed(b"xaab") == (b"xa", True)
    with pytest.raises(RequestError):
        DetachKeys("ctrl-")


def test_signals_have_names_and_numbers():
    assert parse_signal("KILL") == parse_signal("sigkill") == parse_signal("9") == 9
    for bad in ("", "NOPE", "0", "99"):
        with pytest.raises(RequestError):
            parse_signal(bad)


def test_names():
    assert check_name("/a.b-C_1") == "a.b-C_1"
    assert "_" in new_name({})
    for bad in ("", "-a", "a b", "a/b", "x" * 200):
        with pytest.raises(RequestError):
            check_name(bad)


def record(**fields):
    spec = SandboxSpec(kernel=KernelSpec(key="secret"))
    base = {"id": "a" * 64, "name": "ada", "spec": spec, "image_id": "sha256:1", "created_s": 1.0}
    return Record(**{**base, **fields})


def test_the_key_of_a_kernel_is_told_to_nobody():
    assert "secret" not in json.dumps(docker_json.public_record(record()))
    assert "secret" not in json.dumps(docker_json.details(record(), None, ""))
    assert "secret" not in json.dumps(docker_json.summary(record()))


def test_how_a_sandbox_is_in_words():
    assert status_text(record()) == "Created"
    assert status_text(record(state=State.RUNNING, started_s=10.0), 75.0) == "Up 1 minute"
    idle = record(state=State.RUNNING, started_s=10.0, liveness="idle", idle_s=240.0)
    assert status_text(idle, 310.0) == "Up 5 minutes (idle 4 minutes)"
    assert status_text(idle.changed(idle_s=3.0), 310.0) == "Up 5 minutes (idle)"
    assert status_text(idle.changed(liveness="hung"), 310.0) == "Up 5 minutes (hung)"
    kernel = idle.changed(spec=SandboxSpec(kernel=KernelSpec()), exit_code=137, death="out of memory")
    assert status_text(kernel, 310.0) == "Up 5 minutes (out of memory)"
    assert status_text(kernel.changed(exit_code=7, death=""), 310.0) == "Up 5 minutes (its kernel has ended)"
    ended = record(state=State.EXITED, exit_code=137, death="out of memory", reason="used all", finished_s=10.0)
    assert status_text(ended, 7211.0) == "Exited (137, out of memory) 2 hours ago"
    assert status_text(ended.changed(death="", reason="powered off"), 15.0) == "Exited (137, powered off) 5 seconds ago"
    assert (duration_text(0.2), duration_text(1.5), duration_text(59)) == (
        "Less than a second",
        "1 second",
        "59 seconds",
    )
    assert (size_text(0), size_text(12_345_678)) == ("0B", "12.3MB")
    assert printable("a\x1b[2Jb\x07\n") == "a?[2Jb?\n"


def test_a_listener_that_never_reads_costs_a_bounded_memory():
    async def flood():
        events = Events()
        listening = events.listen(since_s=None, until_s=time.time() + 60)
        first = asyncio.ensure_future(anext(listening))
        await asyncio.sleep(0)
        for number in range(KEPT * 2):
            events.publish(f"e{number}", "id", {})
        await first
        (queue,) = events._listeners
        assert queue.qsize() <= KEPT
        await listening.aclose()
        assert not events._listeners

    asyncio.run(flood())


def test_only_this_user_and_root_may_connect():
    assert is_allowed_peer(os.getuid())
    assert is_allowed_peer(0)
    assert not is_allowed_peer(65534)


def test_a_process_that_only_has_a_recorded_number_is_not_killed():
    """A pid in a record is reused by another process: it started after the record was written."""
    assert abs(started_s(os.getpid()) - time.time()) < 3600
    assert not kill_recorded(os.getpid(), recorded_s=started_s(os.getpid()) - 10)
    assert not kill_recorded(0, recorded_s=time.time())
    assert not kill_recorded(1, recorded_s=time.time())
