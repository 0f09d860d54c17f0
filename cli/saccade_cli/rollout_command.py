"""``saccade rollout``: wait until a release has arrived, see where it stands, say what is stable."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from saccade_cli.terminal import complain, literal, note

if TYPE_CHECKING:  # the client of Kubernetes takes a second to import, which only these commands need
    from saccade_cli.cluster import Cluster
    from saccade_cli.rollout import Observed

app = typer.Typer(
    no_args_is_help=True,
    help="A release on Knative KServe: whether it has arrived, and how its traffic is split. Only reads the cluster.",
)
console = Console()

#: Exit status: not arrived in time; could not be asked.
NOT_ARRIVED: Final = 1
UNKNOWN: Final = 2
_LOOK_EVERY_S: Final = 1.0
#: A cluster that does not answer for so long is not waited for any longer (seconds).
_PATIENCE_S: Final = 60.0

Name = Annotated[str, typer.Argument(help="The InferenceService: the Helm release's name, or its fullnameOverride.")]
Namespace = Annotated[
    str, typer.Option("--namespace", "-n", help="Its namespace; without, the kubeconfig's.", show_default=False)
]
Context = Annotated[str, typer.Option(help="Context of the kubeconfig; without, the current one.", show_default=False)]


@app.command()
def wait(
    name: Name,
    namespace: Namespace = "",
    context: Context = "",
    timeout: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds to wait; without, the longest progress deadline and a minute."),
    ] = None,
) -> None:
    """Wait until the release has arrived; exit 0 then, 1 if not in time, 2 if the cluster cannot be asked.

    It has arrived when the InferenceService is Ready, the newest revision of each component is ready and has the share
    of the traffic that was asked for, and the Knative services have the spec that the InferenceService has now.
    """
    from saccade_cli.rollout import deadline_s

    with _told():
        cluster, namespace = _cluster(context, namespace)
        begun, heard = time.monotonic(), -math.inf
        said: list[str] = []
        while True:
            observed, missing = _look(cluster, name, namespace, heard)
            now = time.monotonic()
            if observed is not None:
                heard = now
                timeout = timeout or deadline_s(observed.service)
                if not missing:
                    console.print(_table(observed))
                    return
            if missing != said:
                for line in missing:
                    note(f"[{now - begun:4.0f} s] {line}")
                said = missing
            if timeout and now - begun > timeout:
                complain(f"{name} has not arrived within {timeout:.0f} s: {'; '.join(missing)}")
                raise typer.Exit(NOT_ARRIVED)
            time.sleep(_LOOK_EVERY_S)


@app.command()
def status(name: Name, namespace: Namespace = "", context: Context = "") -> None:
    """Print the components' revisions and their shares, and what is missing until the release has arrived."""
    with _told():
        cluster, namespace = _cluster(context, namespace)
        observed = cluster.observe(name, namespace)
        console.print(_table(observed))
        for line in _missing(cluster, observed, namespace):
            note(line)


@app.command()
def digest(name: Name, namespace: Namespace = "", context: Context = "") -> None:
    """Print the digest of the stable release, for canary.of."""
    with _told():
        cluster, namespace = _cluster(context, namespace)
        found = cluster.rollout(name, namespace).get("stable")
        if not found:
            complain(
                f"there is no ConfigMap {name}-rollout in the namespace {namespace}: no release of the chart saccade"
            )
            raise typer.Exit(UNKNOWN)
        typer.echo(found)


def _look(cluster: Cluster, name: str, namespace: str, heard_s: float) -> tuple[Observed | None, list[str]]:
    """One look. A cluster that does not answer has to have answered not long ago: then it is asked again."""
    from saccade_cli.cluster import ClusterFailed, NotThere

    try:
        observed = cluster.observe(name, namespace)
        return observed, _missing(cluster, observed, namespace)
    except NotThere:
        raise
    except ClusterFailed as error:
        if time.monotonic() - heard_s > _PATIENCE_S:
            raise
        return None, [str(error)]


def _missing(cluster: Cluster, observed: Observed, namespace: str) -> list[str]:
    """What is missing, and what the pods that are waited for say."""
    from saccade_cli.rollout import look, missing

    found = missing(observed)
    for one in look(observed):
        if one.newest and one.newest != one.ready and (why := cluster.why_pods_wait(one.newest, namespace)):
            found.append(f"{one.name}: {why}")
    return found


def _table(observed: Observed) -> Table:
    from saccade_cli.rollout import look

    table = Table("component", "revision", "traffic", "")
    table.columns[1].overflow = "fold"
    table.columns[2].justify = "right"
    for one in look(observed):
        shares = dict(one.traffic)
        for revision in sorted({*shares, one.newest} - {""}):
            state = ("newest" if revision == one.ready else "newest, not ready") if revision == one.newest else ""
            table.add_row(one.name, literal(revision), f"{shares.get(revision, 0)} %", state)
    return table


def _cluster(context: str, namespace: str) -> tuple[Cluster, str]:
    from saccade_cli.cluster import Cluster

    cluster = Cluster(context)
    return cluster, namespace or cluster.namespace


@contextmanager
def _told() -> Iterator[None]:
    """Say what a cluster that cannot be asked is, and exit with 2."""
    from saccade_cli.cluster import ClusterFailed

    try:
        yield
    except ClusterFailed as error:
        complain(str(error))
        raise typer.Exit(UNKNOWN) from None
