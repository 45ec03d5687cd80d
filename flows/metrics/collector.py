"""One scrape: the registry in one reading transaction, then the runs of the home, then what they cost."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from prometheus_client.core import Metric

from flows.metrics import pipeline
from flows.metrics.costs import costs
from flows.metrics.families import made
from flows.metrics.fleet import fleet, living
from flows.metrics.rates import Prices
from flows.metrics.store_scan import StoreScan
from registry import Registry
from registry.errors import RegistryError
from registry.monitoring.state import RegistryWatch
from registry.verifications import Verifications

log = logging.getLogger("tuneline.metrics")


class RegistryCollector:
    """Reads a registry whenever somebody reads the metrics; for one reader at a time.

    What never changes (executions, decisions, evaluations, runs that are over) is read once. Where the
    registry cannot be read, `tuneline_registry_up` is 0 and its families are missing; the others are there.
    """

    def __init__(self, registry: Registry, rates: Prices) -> None:
        self._rates = rates
        self._watch = RegistryWatch(registry)
        self._verifications = Verifications(registry.home)
        self._runs = pipeline.Runs(registry.home)
        self._scan = StoreScan(registry.store)

    def collect(self) -> Iterator[Metric]:
        """All families, each once."""
        began = time.perf_counter()
        runs, records = self._runs.latest(), self._verifications.latest()
        yield from pipeline.runs_of(runs)
        yield from pipeline.store(self._scan)
        problems = {record.artifact_id: record.problems for record in records if record.problems}
        try:
            state = self._watch.read(problems)
        except RegistryError as error:
            log.error("the registry cannot be read: %s", error)
            yield made("tuneline_registry_up", [((), 0)])
            return
        alive = living(state.endpoints)
        yield from fleet(state, alive)
        yield from pipeline.stages(self._watch.stages.by_stage, self._rates)
        yield from pipeline.verifications(records, state.damaged)
        yield from costs(state, self._watch.stages, runs, alive, self._rates)
        yield made("tuneline_registry_up", [((), 1)])
        yield made("tuneline_registry_read_seconds", [((), time.perf_counter() - began)])

    def close(self) -> None:
        """Wait for what goes on in the background."""
        self._scan.close()
