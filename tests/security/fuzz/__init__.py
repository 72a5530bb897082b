"""Fuzzers: what a hostile guest, or a QEMU that was taken over, may send. ``python -m tests.security.fuzz TARGET``.

A target is a module with a function ``run``: it reads an input as choices (:mod:`.choices`), builds from them what the
other side may say (mostly well-formed, then bent), lets the real code have it, and asserts what must hold. So the same
short byte strings are random inputs, mutants, what coverage found, and the corpus of ``../corpus/TARGET``.
"""
