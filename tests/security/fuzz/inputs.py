"""Where inputs come from: a seed, and the corpus, of which mutants are made."""

import random
from pathlib import Path

CORPUS = Path(__file__).parents[1] / "corpus"
_SIZES = (4, 16, 32, 64, 64, 128, 256)


def read_corpus(target):
    """Inputs that were worth keeping, by name: each that ever failed, and those that together reach the most code."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).glob("*"))}


def make_inputs(seed, corpus):
    """Inputs without end: half of them random, half of them mutants of the corpus."""
    rng = random.Random(seed)
    known = list(corpus) or [b""]
    while True:
        yield rng.randbytes(rng.choice(_SIZES))
        yield _mutate(rng, rng.choice(known), known)


def _mutate(rng, data, known):
    data = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at : at + 1] = rng.randbytes(1)
        elif kind == 1:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            data[at:] = rng.choice(known)[at:]
        else:
            data[at:at] = data[: rng.randrange(1, 33)]
    return bytes(data[:1024])
