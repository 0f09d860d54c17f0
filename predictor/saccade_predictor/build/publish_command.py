"""``saccade-build publish`` and ``saccade-build fetch``: a model repository to and from an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saccade_predictor.build import publishing
from saccade_predictor.build.manifest import ManifestError
from saccade_predictor.build.saying import INTERRUPTED, MODEL, USAGE, fail, reason, terminable
from saccade_predictor.build.stores import Store, StoreError, open_store


def publish(
    repository: Annotated[
        Path,
        typer.Argument(metavar="REPOSITORY", show_default=False, help="The model repository: a folder of models."),
    ],
    uri: Annotated[
        str,
        typer.Argument(metavar="URI", show_default=False, help="s3://BUCKET/PREFIX or gs://BUCKET/PREFIX."),
    ],
    by_digest: Annotated[
        bool,
        typer.Option(
            "--by-digest",
            help="Publish at URI/DIGEST, a place of its own for each content: what a revision reads never changes.",
        ),
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Change files of versions that are there; nothing may be reading them.")
    ] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove what is there and not in REPOSITORY, after all else.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Put a model repository into S3 or Google Cloud Storage, for model.storageUri of the chart.

    Sends what is new or changed, looks at every object again, and writes SHA256SUMS last: a reader that goes by it
    sees the repository of before, or the new one. Again with the same content it sends nothing; interrupted, it goes
    on. A version that is there is not changed. Credentials are those that AWS' and Google's own tools find.

    Example: saccade-build publish my-models s3://models/repository --by-digest

    Exit code: 0 done, 1 a version there has another content, or what is there is not what was sent, 2 a wrong
    option or file, or the store cannot be used.
    """
    try:
        here = publishing.read_local(repository)
        if not any(publishing.is_in_version(name) for name in here):
            fail(f"{repository} has no version of a model; expected files such as MODEL/1/model.onnx in it", USAGE)
        place = f"{uri.rstrip('/')}/{publishing.digest_of(here)[: publishing.DIGEST_DIGITS]}" if by_digest else uri
        store = _open(place)
        with terminable():
            done = publishing.publish(
                repository,
                here,
                store,
                replace=replace,
                remove=delete,
                dry_run=dry_run,
                note=lambda text: typer.echo(text, err=True),
            )
    except ManifestError as error:
        fail(str(error), USAGE)
    except publishing.PublishError as error:
        fail(str(error), MODEL)
    except StoreError as error:
        fail(str(error), USAGE)
    except OSError as error:
        fail(f"cannot read {error.filename}: {reason(error)}", USAGE)
    except KeyboardInterrupt:
        fail("interrupted; what was listed before is as it was, and the same command goes on", INTERRUPTED)
    _say(done, dry_run)


def _open(uri: str) -> Store:
    try:
        return open_store(uri)
    except ValueError as error:
        fail(str(error), USAGE)


def _say(done: publishing.Published, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    todo = done.changes
    parts = [f"{len(todo.uploads)} files {would}sent ({done.sent_bytes} bytes)", f"{len(todo.unchanged)} were there"]
    if todo.removals:
        parts.append(f"{len(todo.removals)} {would}removed")
    typer.echo(f"{done.uri}: {', '.join(parts)}, SHA-256 of the list {done.digest[: publishing.DIGEST_DIGITS]}...")
    if dry_run:
        for name in todo.uploads:
            typer.echo(f"would send {name}")
        for name in todo.removals:
            typer.echo(f"would remove {name}")


def fetch(
    uri: Annotated[
        str,
        typer.Argument(metavar="URI", show_default=False, help="s3://BUCKET/PREFIX or gs://BUCKET/PREFIX."),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", show_default=False, help="Where it goes; made if it is not there.")
    ],
    if_there: Annotated[
        bool, typer.Option("--if-there", help="Nothing published there yet is no error: FOLDER is then empty.")
    ] = False,
) -> None:
    """Get a model repository that saccade-build publish wrote, and hold every file against its SHA256SUMS.

    What SHA256SUMS does not list is left where it is. What is in FOLDER already and as listed is not sent again.

    Example: saccade-build fetch s3://models/repository my-models

    Exit code: 0 done, 1 an object is not as listed, or there is no list, 2 a wrong option or file, or the store cannot
    be used.
    """
    store: Store | None = None
    try:
        store = _open(uri)
        folder.mkdir(parents=True, exist_ok=True)
        with terminable():
            came, there = publishing.fetch(store, folder, lambda name: typer.echo(name, err=True))
    except publishing.NothingPublished as error:
        if not if_there:
            fail(str(error), MODEL)
        typer.echo(f"{folder}: nothing is published at {uri} yet")
        return
    except publishing.PublishError as error:
        fail(str(error), MODEL)
    except StoreError as error:
        fail(str(error), USAGE)
    except OSError as error:
        fail(f"cannot write {error.filename}: {reason(error)}", USAGE)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on", INTERRUPTED)
    typer.echo(f"{folder}: {came} files came from {store.uri}, {there} were there, all are as its list says")
