"""The record of a run as JSON: ``save`` and ``load``, and the same as dictionaries for messages between workers.

Histograms are in HdrHistogram's own compressed form, so that other tools read them too. What is read is checked for
its kind and version; a file of another version is refused with both versions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from saccade_loadtest.record.histogram import Histogram
from saccade_loadtest.record.results import Phase, Revision, Run, Schedule, Series, Tally, Target, Worker
from saccade_loadtest.record.server_metrics import ServerRecord, StageTimes

KIND: Final = "saccade-loadtest-run"
VERSION: Final = 1


class UnreadableRun(ValueError):
    """A file that holds no record of a run, or one that this version does not read."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where} holds no record of a run that can be read: {reason}")


def save(run: Run, path: Path) -> None:
    """Write the record; what is there before is replaced only once all is written."""
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(to_dict(run), separators=(",", ":")), encoding="utf-8")
    unfinished.replace(path)


def load(path: Path) -> Run:
    """Read what ``save`` wrote.

    Raises:
        UnreadableRun: it is something else, or not there.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadableRun(str(path), error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise UnreadableRun(str(path), f"it is not JSON ({error})") from error
    return from_dict(found, where=str(path))


def to_dict(run: Run) -> dict[str, Any]:
    """The record as what JSON can hold."""
    return {
        "kind": KIND,
        "version": VERSION,
        "scenario": run.scenario,
        "target": asdict(run.target),
        "loop": run.loop,
        "schedule": asdict(run.schedule),
        "series": {protocol: _series_to_dict(series) for protocol, series in run.series.items()},
        "workers": [_worker_to_dict(worker) for worker in run.workers],
        "workers_expected": run.workers_expected,
        "server": None if run.server is None else asdict(run.server),
        "began_at": run.began_at,
        "machine": run.machine,
        "notes": run.notes,
        "faults": run.faults,
        "protocols": run.protocols,
    }


def from_dict(found: object, *, where: str = "the message") -> Run:
    """The run of ``to_dict``.

    Args:
        found: what JSON gave.
        where: it came from, for the error.

    Raises:
        UnreadableRun: it is something else.
    """
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise UnreadableRun(where, f'it is not JSON with "kind": "{KIND}"')
    if found.get("version") != VERSION:
        raise UnreadableRun(where, f"it has version {found.get('version')!r}, and version {VERSION} is read")
    try:
        return _run(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableRun(where, f"{type(error).__name__}: {error}") from error


def _run(found: Mapping[str, Any]) -> Run:
    schedule = dict(found["schedule"])
    schedule["phases"] = tuple(Phase(**phase) for phase in schedule["phases"])
    if found["loop"] not in ("open", "closed"):
        raise ValueError(f"the loop is open or closed, not {found['loop']!r}")
    return Run(
        scenario=str(found["scenario"]),
        target=Target(**found["target"]),
        loop=found["loop"],
        schedule=Schedule(**schedule),
        series={protocol: _series(series) for protocol, series in found["series"].items()},
        workers=[_worker(worker) for worker in found["workers"]],
        workers_expected=int(found["workers_expected"]),
        server=None if found["server"] is None else _server(found["server"]),
        began_at=str(found["began_at"]),
        machine=dict(found["machine"]),
        notes=list(found["notes"]),
        faults=list(found["faults"]),
        protocols=list(found.get("protocols", ())),
    )


def _series_to_dict(series: Series) -> dict[str, Any]:
    return {
        "bins": {
            str(number): {
                "sent": tally.sent,
                "not_sent": tally.not_sent,
                "answered": tally.answered,
                "errors": dict(tally.errors),
                "latency": tally.latency.encode(),
                "service": tally.service.encode(),
            }
            for number, tally in sorted(series.bins.items())
        },
        "revisions": {
            version: {
                "answered": revision.answered,
                "errors": dict(revision.errors),
                "latency": revision.latency.encode(),
            }
            for version, revision in series.revisions.items()
        },
        "cache": dict(series.cache),
        "agreement_checked": series.agreement_checked,
        "agreed": series.agreed,
    }


def _series(found: Mapping[str, Any]) -> Series:
    return Series(
        bins={
            int(number): Tally(
                sent=int(tally["sent"]),
                not_sent=int(tally["not_sent"]),
                answered=int(tally["answered"]),
                errors=Counter(tally["errors"]),
                latency=Histogram.decode(tally["latency"]),
                service=Histogram.decode(tally["service"]),
            )
            for number, tally in found["bins"].items()
        },
        revisions={
            version: Revision(
                answered=int(revision["answered"]),
                errors=Counter(revision["errors"]),
                latency=Histogram.decode(revision["latency"]),
            )
            for version, revision in found["revisions"].items()
        },
        cache=Counter(found["cache"]),
        agreement_checked=int(found["agreement_checked"]),
        agreed=int(found["agreed"]),
    )


def _worker_to_dict(worker: Worker) -> dict[str, Any]:
    return {
        "name": worker.name,
        "cpu_s": worker.cpu_s,
        "wall_s": worker.wall_s,
        "cores": worker.cores,
        "thread_s": worker.thread_s,
        "busiest_share": worker.busiest_share,
        "schedule_error": worker.schedule_error.encode(),
        "lost": worker.lost,
    }


def _worker(found: Mapping[str, Any]) -> Worker:
    return Worker(**{**found, "schedule_error": Histogram.decode(found["schedule_error"])})


def _server(found: Mapping[str, Any]) -> ServerRecord:
    return ServerRecord(
        stages={
            name: StageTimes(tuple(stage["bounds_s"]), tuple(stage["counts"]), float(stage["sum_s"]))
            for name, stage in found["stages"].items()
        },
        cache=dict(found["cache"]),
        gauges={name: [(float(at), float(value)) for at, value in points] for name, points in found["gauges"].items()},
        missing=dict(found["missing"]),
    )
