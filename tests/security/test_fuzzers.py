"""A short run of each fuzzer, and all that ever made one fail. ``make fuzz`` runs them for long."""

import itertools

import pytest

from tests.security.fuzz.__main__ import TARGETS, load
from tests.security.fuzz.inputs import CORPUS, make_inputs, read_corpus

_RUNS = 1000


def test_each_corpus_has_its_target():
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_kept_passes(target):
    run = load(target)
    for name, data in read_corpus(target).items():
        try:
            run(data)
        except BaseException as exc:
            exc.add_note(f"with the input {target}/{name}")
            raise


@pytest.mark.parametrize("target", TARGETS)
def test_new_inputs_pass(target):
    run = load(target)
    for data in itertools.islice(make_inputs(7, read_corpus(target).values()), _RUNS):
        try:
            run(data)
        except BaseException as exc:
            exc.add_note(f"with the input {data!r}")
            raise
