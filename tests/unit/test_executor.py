"""The executor, with kernels of this machine in place of sandboxes: what calls come to."""

import collections
import subprocess
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, CancelledError, wait

import pytest

import hyper_kernel
from hyper_kernel.errors import RequestError
from hyper_kernel.executor import HyperExecutor, RemoteError, RemoteTraceback, SandboxDied
from tests.fakes.local_kernels import LocalKernels

HERE = sys.modules[__name__]


def fail(kind):
    """What a call may come to; runs in the kernel."""
    if kind == "key":
        raise KeyError("k")
    if kind == "os":
        raise FileNotFoundError(2, "No such file or directory")
    if kind == "own":
        raise Odd("odd", 7)
    if kind == "exit":
        raise SystemExit(3)
    if kind == "stop":
        raise StopIteration(3)
    if kind == "die":
        import os  # noqa: PLC0415

        os.kill(os.getpid(), 9)
    return threading.Lock() if kind == "lock" else kind


class Odd(Exception):
    pass


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    kernels = LocalKernels(tmp_path_factory.mktemp("e"))
    yield kernels
    assert not kernels.children
    kernels.close()


@pytest.fixture(scope="module")
def executor(kernels):
    with HyperExecutor(1, reuse=True, modules=[HERE], client=kernels) as executor:
        yield executor


def test_a_call_returns_what_its_function_does(executor):
    future = executor.submit(lambda x, *, y: {"sum": (x + y,)}, 1, y=2)
    assert future.result(30) == {"sum": (3,)}
    times = future.timeline
    assert times.submitted_s <= times.started_s <= times.ready_s <= times.done_s
    assert times.sandbox.startswith("fake_")


def test_order_is_kept(executor):
    assert list(executor.map(pow, range(5), range(5))) == [1, 1, 4, 27, 256]


def test_prints_appear_here(executor, capsys):
    executor.submit(print, "hello \x1b]0;title\x07").result(30)
    assert capsys.readouterr().out.startswith("hello ")


def test_plain_exceptions_are_raised_as_they_are_with_the_traceback_there(executor):
    with pytest.raises(KeyError) as info:
        executor.submit(fail, "key").result(30)
    assert info.value.args == ("k",)
    assert isinstance(info.value.__cause__, RemoteTraceback)
    assert "in fail" in str(info.value.__cause__)
    with pytest.raises(FileNotFoundError) as info:
        executor.submit(fail, "os").result(30)
    assert info.value.errno == 2


@pytest.mark.parametrize(("kind", "name"), [("own", "Odd"), ("exit", "SystemExit"), ("stop", "StopIteration")])
def test_other_exceptions_are_named(executor, kind, name):
    with pytest.raises(RemoteError) as info:
        executor.submit(fail, kind).result(30)
    assert info.value.type_name == name


def test_a_result_that_cannot_be_carried_is_named_with_what_to_return(executor):
    with pytest.raises(RequestError, match=r"result is a _thread\.lock, which cannot be carried") as info:
        executor.submit(fail, "lock").result(30)
    assert info.value.hint.startswith("return numbers, texts")


def test_a_module_that_the_image_lacks_is_named(executor, tmp_path, monkeypatch):
    (tmp_path / "mine_alone.py").write_text("def f(): return 5")
    monkeypatch.syspath_prepend(tmp_path)
    mine = __import__("mine_alone")
    with pytest.raises(RequestError, match="needs the module mine_alone, which image hyper/python:latest has not"):
        executor.submit(mine.f).result(30)


def test_a_death_fails_one_call_alone(executor):
    with pytest.raises(SandboxDied, match="ended: out of memory: used all"):
        executor.submit(fail, "die").result(30)
    assert executor.submit(abs, -1).result(30) == 1


def test_a_call_that_takes_too_long_is_ended(kernels):
    with HyperExecutor(1, timeout=0.3, client=kernels) as executor:
        with pytest.raises(TimeoutError, match=r"longer than 0\.3 s; its sandbox was removed"):
            executor.submit(time.sleep, 100).result(30)
        assert executor.submit(abs, -1).result(30) == 1


def test_calls_have_fresh_sandboxes_and_nothing_is_left(kernels):
    started = kernels.started
    with HyperExecutor(2, client=kernels) as executor:
        assert list(executor.map(abs, range(3))) == [0, 1, 2]
    assert kernels.started - started == 3
    assert not [ident for ident in kernels.children if int(ident, 16) > started]


def test_sandboxes_that_come_and_go_side_by_side_hold_nobody_up(kernels):
    with HyperExecutor(3, client=kernels) as executor:
        calls = [executor.submit(abs, number) for number in range(45)]
        assert wait(calls, 60).not_done == set()


def test_a_call_that_runs_is_cancelled_by_removing_its_sandbox(kernels):
    with HyperExecutor(1, client=kernels) as executor:
        running, waiting = executor.submit(time.sleep, 100), executor.submit(abs, -1)
        while not running.timeline.sandbox:
            assert not running.done(), running.exception()
            time.sleep(0.01)  # futures have no event for that
        assert running.running() and not waiting.running()
        assert running.cancel() and running.cancelled()
        with pytest.raises(CancelledError):
            running.result(0)
        assert wait([running, waiting], 30).not_done == set()
        assert waiting.result() == 1
        assert not running.cancel() or running.cancelled()


def test_where_there_is_no_room_calls_wait_for_it(tmp_path):
    kernels = LocalKernels(tmp_path, room=1)
    with HyperExecutor(3, client=kernels) as executor:
        assert list(executor.map(abs, range(3))) == [0, 1, 2]
    kernels.close()


STATE = None


def set_up(value):
    global STATE
    STATE = value


def state():
    return STATE


def test_an_initializer_is_called_in_each_sandbox(kernels):
    options = {"initializer": set_up, "initargs": (7,), "modules": [HERE], "client": kernels}
    with HyperExecutor(1, reuse=True, **options) as executor:
        assert executor.submit(state).result(30) == 7
        assert executor.submit(state).result(30) == 7


def test_an_initializer_that_fails_breaks_the_executor(kernels, caplog):
    with HyperExecutor(1, initializer=fail, initargs=("key",), modules=[HERE], client=kernels) as executor:
        calls = [executor.submit(abs, -1), executor.submit(abs, -1)]
        for call in calls:
            with pytest.raises(BrokenExecutor):
                call.result(30)
        with pytest.raises(BrokenExecutor):
            executor.submit(abs, -1)
    assert "Exception in initializer" in caplog.text


def test_shutdown_takes_no_more_and_cancels_what_has_not_begun(kernels):
    executor = HyperExecutor(1, client=kernels)
    calls = [executor.submit(abs, -1) for _ in range(4)]
    executor.shutdown(cancel_futures=True)
    assert [call.cancelled() for call in calls] == [False, True, True, True]
    assert calls[0].result() == 1
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(abs, -1)


def test_shutdown_without_waiting_leaves_nothing_in_the_end(kernels):
    before = set(kernels.children)
    executor = HyperExecutor(1, reuse=True, client=kernels)
    call = executor.submit(abs, -1)
    executor.shutdown(wait=False)
    assert call.result(30) == 1
    executor.shutdown()
    assert set(kernels.children) <= before


@pytest.mark.parametrize("options", [{"max_workers": 0}, {"max_workers": -1}])
def test_a_number_of_workers_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        HyperExecutor(**options)


def test_map_keeps_the_order_and_shows_its_progress(kernels, capsys):
    squares = hyper_kernel.map(lambda x: x * x, range(4), n=2, reuse=True, progress=True, client=kernels)
    assert squares == [0, 1, 4, 9]
    assert "4/4" in capsys.readouterr().err


def test_map_takes_items_when_their_turn_comes(kernels):
    taken = []

    def items():
        for number in range(100):
            taken.append(number)
            yield "key" if number == 1 else number

    with pytest.raises(KeyError):
        hyper_kernel.map(fail, items(), n=1, reuse=True, modules=[HERE], client=kernels)
    assert len(taken) < 10


def test_map_gives_exceptions_back_where_that_is_wanted(kernels):
    found = hyper_kernel.map(
        fail, [1, "own", 2], n=1, reuse=True, return_exceptions=True, modules=[HERE], client=kernels
    )
    assert found[::2] == [1, 2]
    assert isinstance(found[1], RemoteError)
    assert hyper_kernel.map(fail, [], client=kernels) == []


def test_importing_the_package_loads_none_of_this():
    code = "import sys, hyper_kernel; print('cloudpickle' in sys.modules or 'zmq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    with pytest.raises(AttributeError, match="no attribute 'nobody'"):
        hyper_kernel.nobody  # noqa: B018


def test_versions_that_differ_are_named(executor, monkeypatch):
    executor.submit(abs, -1).result(30)
    monkeypatch.setattr(executor._idle[0]._session, "python", (3, 99))
    with pytest.raises(RequestError, match=r"has Python 3.99, and this is 3.\d+: functions go as bytecode"):
        executor.submit(lambda: collections.Counter()).result(30)
