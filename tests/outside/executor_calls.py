"""CPython's own tests of executors, told to use ours: its mixins are made for that."""

import unittest
from concurrent import futures

import workshop

from hyper_kernel import HyperExecutor

tests = workshop.load_cpython_futures()


class Executor(HyperExecutor):
    """Ours, with functions of the tests' own module, which no image has."""

    def __init__(self, max_workers=None, **options):
        super().__init__(max_workers, reuse=True, modules=[tests], **options)


class Mixin(tests.ExecutorMixin):
    executor_type = Executor
    worker_count = 2

    def setUp(self):
        super().setUp()
        if type(self) is not TestFailingInitializer:
            # The tests' times are of threads: the sandboxes are there when one begins.
            futures.wait([self.executor.submit(tests.time.sleep, 0.5) for _ in range(self.worker_count)])


class TestExecutor(Mixin, tests.ExecutorTest, unittest.TestCase):
    pass


class TestWait(Mixin, tests.WaitTests, unittest.TestCase):
    pass


class TestAsCompleted(Mixin, tests.AsCompletedTests, unittest.TestCase):
    pass


class TestShutdown(Mixin, tests.ExecutorShutdownTest, unittest.TestCase):
    pass


class TestInitializer(Mixin, tests.InitializerMixin, unittest.TestCase):
    pass


class TestFailingInitializer(Mixin, tests.FailingInitializerMixin, unittest.TestCase):
    pass


del Mixin  # pytest would collect the base too
