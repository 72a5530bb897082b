"""What the server's /metrics says of sandboxes: the last measurements, since a scrape must not wait for hyperd."""

import contextlib
from collections import Counter
from collections.abc import Iterable

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hyper_kernel.client import State
from jupyter_ext.watch import Watch


class Metrics(Collector):
    """A collector of prometheus_client's.

    The number of its series is bounded: states are five, deaths have few names, and no sandbox has one of its own.

    :param deaths: how often which death was met.
    """

    def __init__(self, watch: Watch, deaths: Counter[str]) -> None:
        self._watch = watch
        self._deaths = deaths

    def register(self) -> None:
        """Be part of what the process shows."""
        REGISTRY.register(self)

    def unregister(self) -> None:
        """Be so no more; does nothing where it was not."""
        with contextlib.suppress(KeyError):
            REGISTRY.unregister(self)

    def collect(self) -> Iterable[Metric]:
        """Called by a scrape, in the server's loop."""
        self._watch.touch()
        records, usage = self._watch.records, self._watch.usage
        states = Counter(each.state for each in records)
        sandboxes = GaugeMetricFamily("hyper_sandboxes", "Sandboxes by state", labels=["state"])
        for state in State:
            sandboxes.add_metric([str(state)], states[state])
        memory = GaugeMetricFamily("hyper_memory_bytes", "Memory of all sandboxes, shared pages counted once")
        memory.add_metric([], sum(each.memory_bytes for each in usage.values()))
        cpu = CounterMetricFamily("hyper_cpu_seconds", "Processor time of sandboxes, as far as it was measured")
        cpu.add_metric([], self._watch.cpu_s)
        deaths = CounterMetricFamily(
            "hyper_deaths", "Sandboxes and kernels that ended before their time", labels=["death"]
        )
        for name, count in self._deaths.items():
            deaths.add_metric([name], count)
        removed = CounterMetricFamily("hyper_removed_outputs", "What the firewall took out of outputs")
        removed.add_metric([], self._watch.removed)
        return sandboxes, memory, cpu, deaths, removed

    def describe(self) -> Iterable[Metric]:
        """Called when it is registered: what it has is told by its names alone."""
        return ()
