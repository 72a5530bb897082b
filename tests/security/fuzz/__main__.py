"""``python -m tests.security.fuzz TARGET --runs 1000000``; without a target, all of them in turn."""

import argparse
import importlib
import itertools
import sys
import tempfile
import time
from pathlib import Path

from tests.security.fuzz.choices import Choices
from tests.security.fuzz.inputs import CORPUS, make_inputs, read_corpus

#: The targets, and what of the product each is about.
TARGETS = {
    "virtqueue": ("vsock.virtqueue", "vsock.memory"),
    "connection": ("vsock.connection", "vsock.packet"),
    "mux": ("vsock.mux", "vsock.stream", "vsock.connection"),
    "vhost_user": ("vsock.vhost_user",),
    "device": ("vsock.pump", "vsock.mux", "vsock.virtqueue", "vsock.packet"),
    "frames": ("wire",),
    "link": ("link",),
    "agent": ("agent.agent", "shim.work", "shim.program"),
    "zmtp": ("channels.zmtp", "channels.message"),
    "firewall": ("channels.firewall", "channels.packet", "policy.output", "policy.mime", "policy.html"),
    "tar": ("host.tar",),
    "folder": ("mounts.gate", "mounts.messages"),
}
#: Inputs under coverage's eye, which makes them slow.
_WATCHED = 5000


def main():
    options = _parse()
    targets = options.targets or list(TARGETS)
    for target in targets:
        (_guide if options.guided else _fuzz)(target, options)


def _parse():
    parser = argparse.ArgumentParser(prog="python -m tests.security.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs of each target")
    parser.add_argument("--seed", type=int, default=1, help="another gives other inputs")
    parser.add_argument("--guided", action="store_true", help="let atheris look for inputs that reach new code")
    parser.add_argument("--keep", type=Path, help="with --guided: the folder that gets those")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(unknown)}")
    return options


def load(target):
    """What runs one input, as bytes."""
    run = importlib.import_module(f"tests.security.fuzz.{target}").run
    return lambda data: run(Choices(data))


def _fuzz(target, options):
    """Run inputs until one fails."""
    run, started, count = load(target), time.monotonic(), 0
    for data in _inputs(target, options, options.runs):
        try:
            run(data)
        except BaseException:
            path = Path(tempfile.gettempdir()) / f"{target}-failed"
            path.write_bytes(data)
            print(
                f"{target}: input {count} failed; it is {path} now, and belongs in {CORPUS / target}", file=sys.stderr
            )
            raise
        count += 1
    took = time.monotonic() - started
    words = f"{target}: {count} inputs in {took:.0f} s, {count / took:.0f}/s; branches {_measure(target, options)}"
    print(words, flush=True)


def _inputs(target, options, runs):
    corpus = read_corpus(target).values()
    return itertools.chain(corpus, itertools.islice(make_inputs(options.seed, corpus), runs))


def _measure(target, options):
    """How much of the code a few thousand of the inputs reach."""
    from coverage import Coverage  # noqa: PLC0415 - only here, for its tracer slows down what it sees

    files = [importlib.import_module(f"hyper_kernel.{name}").__file__ for name in TARGETS[target]]
    coverage = Coverage(branch=True, data_file=None, include=files, config_file=False)
    run = load(target)
    with coverage.collect():
        for data in _inputs(target, options, _WATCHED):
            run(data)
    numbers = [coverage._analyze(file).numbers for file in files]
    return ", ".join(
        f"{name} {each.n_executed_branches}/{each.n_branches}"
        for name, each in zip(TARGETS[target], numbers, strict=True)
    )


def _guide(target, options):
    """Hand over to atheris (not among the tests' requirements: pip install atheris), which exits by itself."""
    import atheris  # noqa: PLC0415 - optional

    with atheris.instrument_imports(include=["hyper_kernel"]):
        run = load(target)
    with tempfile.TemporaryDirectory() as folder:
        known = CORPUS / target
        known.mkdir(exist_ok=True)
        arguments = [f"-runs={options.runs}", f"-seed={options.seed}", "-max_len=512", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *arguments, str(options.keep or folder), str(known)], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
