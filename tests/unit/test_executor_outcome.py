"""What a hostile guest says a call came to."""

import pytest

from hyper_kernel.errors import GuestError, RequestError
from hyper_kernel.executor.remote import RemoteError, RemoteTraceback, read_outcome


def raised(**facts):
    with pytest.raises(Exception) as info:
        read_outcome({"raised": facts}, "img")
    return info.value


@pytest.mark.parametrize(
    "name", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException", "StopIteration", "exit", "", "Odd"]
)
def test_what_would_steer_this_program_is_named_and_not_raised(name):
    error = raised(type=name, is_builtin=True, text="t", args=("t",))
    assert type(error) is RemoteError
    assert error.type_name == name


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("a", 1), ("a", 1)),
        ((["list"],), ("t",)),
        (({"a": 1},), ("t",)),
        (("x" * 20_000,), ("t",)),
        (tuple(range(10)), ("t",)),
        (None, ("t",)),
        ("abc", ("t",)),
    ],
)
def test_arguments_are_plain_or_the_text(args, expected):
    error = raised(type="ValueError", is_builtin=True, text="t", args=args)
    assert type(error) is ValueError
    assert error.args == expected


def test_texts_are_bounded_and_fit_for_a_terminal():
    error = raised(type="ValueError", is_builtin=True, text="\x1b[2J" + "x" * 100_000, traceback="\x07" * 1_000_000)
    assert len(str(error)) <= 10_000
    assert "\x1b" not in str(error)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert len(str(error.__cause__)) < 101_000


def test_a_class_of_the_guests_is_none_of_ours():
    assert type(raised(type="ValueError", is_builtin=False, text="t")) is RemoteError
    assert type(raised(type="ValueError", is_builtin=1, text="t")) is RemoteError
    assert type(raised(type=7, is_builtin=True, text=[])) is RemoteError


@pytest.mark.parametrize("said", [None, 7, [], {}, {"a": 1}, {"result": 1, "raised": {}}, {"raised": 7}])
def test_what_is_no_outcome_is_refused(said):
    with pytest.raises(GuestError, match="does not say what became of the call"):
        read_outcome(said, "img")


def test_outcomes_that_are_mistakes_are_told():
    with pytest.raises(RequestError, match="needs the module m, which image img has not"):
        read_outcome({"absent": "m"}, "img")
    with pytest.raises(RequestError, match="result is a lock"):
        read_outcome({"uncarried": "result is a lock"}, "img")
    assert read_outcome({"result": 5}, "img") == 5
