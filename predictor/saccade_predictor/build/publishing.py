"""Puts a model repository into an object store, for clusters to read: only what changed, and the manifest last.

    local files -> digests -+
                            +-> changes (pure) -> uploads -> looked at again -> SHA256SUMS -> removals
    objects, old manifest --+

Whoever reads by the manifest (``fetch``) sees the old repository or the new one. KServe's storage initializer copies
whatever lies there; so a version that is there is not changed unless asked for, and what makes a version one, its
model's file, is uploaded after what lies beside it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from saccade_predictor.build.manifest import MANIFEST_FILE, ManifestError, compose, files_of, parse
from saccade_predictor.build.stores import Store, Stored
from saccade_predictor.engines.plan import hash_file
from saccade_predictor.repository import CONFIG_FILE

#: Digits of a repository's digest in its place: enough that two never meet.
DIGEST_DIGITS: Final = 16
_MAX_MANIFEST_BYTES: Final = 2**24


class PublishError(Exception):
    """The repository cannot be published as asked for, or is not there as it was sent."""


class NothingPublished(PublishError):
    """There is no manifest."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the local repository."""

    sha256: str
    bytes: int
    changed_ns: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be done.

    Attributes:
        uploads: names, in the order in which they are uploaded.
        unchanged: names that are there as they are here.
        conflicts: names of versions that are there with another content.
        removals: names that are there and not here.
        manifest: name -> digest of what will be there.
    """

    uploads: tuple[str, ...]
    unchanged: tuple[str, ...]
    conflicts: tuple[str, ...]
    removals: tuple[str, ...]
    manifest: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Published:
    """What was done.

    Attributes:
        uri: where the repository is now.
        sent_bytes: of the uploads.
        digest: of the manifest: of all that is there.
        written: whether the manifest is new.
    """

    uri: str
    changes: Changes
    sent_bytes: int
    digest: str
    written: bool


def is_in_version(name: str) -> bool:
    """Whether a file belongs to a version: ``MODEL/3/...``."""
    parts = name.split("/")
    return len(parts) > 2 and parts[1].isascii() and parts[1].isdigit()


def upload_order(name: str) -> tuple[int, str]:
    """A version's model after its other files, and what configures models after all versions."""
    if is_in_version(name):
        return (1 if name.split("/")[2].startswith("model.") else 0), name
    return (3 if name.endswith(f"/{CONFIG_FILE}") else 2), name


def changes(
    here: Mapping[str, File],
    there: Mapping[str, Stored],
    listed: Mapping[str, str],
    *,
    remove: bool,
) -> Changes:
    """Compare a repository with what is in the store.

    Args:
        here: the local files.
        there: the objects, but for the manifest.
        listed: the old manifest; empty where there is none.
        remove: whether what is not here goes.
    """
    uploads, unchanged, conflicts = [], [], []
    for name, file in here.items():
        stored = there.get(name)
        if stored is None:
            uploads.append(name)
            continue
        # An object that somebody else wrote says nothing of its content: then the manifest has to.
        digest = stored.sha256 or listed.get(name)
        if digest == file.sha256 and stored.bytes == file.bytes:
            unchanged.append(name)
            continue
        uploads.append(name)
        if is_in_version(name):
            conflicts.append(name)
    others = sorted(there.keys() - here.keys())
    kept = {} if remove else {name: listed[name] for name in others if name in listed}
    return Changes(
        tuple(sorted(uploads, key=upload_order)),
        tuple(sorted(unchanged)),
        tuple(sorted(conflicts)),
        tuple(others) if remove else (),
        {**kept, **{name: file.sha256 for name, file in here.items()}},
    )


def read_local(folder: Path) -> dict[str, File]:
    """All files of a repository, with their digests.

    Raises:
        ManifestError: it is no folder, or there is nothing in it.
        OSError: a file cannot be read.
    """
    found = {}
    for name in files_of(folder):
        changed_ns = (folder / name).stat().st_mtime_ns
        found[name] = File(*hash_file(folder / name), changed_ns)
    return found


def digest_of(here: Mapping[str, File]) -> str:
    """Digest of a repository: of its manifest."""
    text = compose({name: file.sha256 for name, file in here.items()})
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def publish(
    folder: Path,
    here: Mapping[str, File],
    store: Store,
    *,
    replace: bool = False,
    remove: bool = False,
    dry_run: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Published:
    """Bring a repository into a store. An interrupted one is gone on with by the next.

    Args:
        folder: the repository, of which ``here`` are the files.
        here: see ``read_local``.
        store: where it goes.
        replace: whether files of versions that are there may be changed.
        remove: whether what is there and not here is removed, after the new manifest is there.
        dry_run: only compare.
        note: told of each file.

    Raises:
        PublishError: a version there would change, or what is there in the end is not what was sent.
        StoreError: the store cannot be used. What was listed before is still as it was, but for ``replace``.
        OSError: a file cannot be read.
    """
    sizes = store.sizes()
    before = store.describe(MANIFEST_FILE) if MANIFEST_FILE in sizes else None
    listed = _listed(store, before)
    others = [name for name in sizes if name != MANIFEST_FILE and not name.endswith("/")]
    there = {
        name: (store.describe(name) if name in here else None) or Stored(sizes[name], None, "") for name in others
    }
    todo = changes(here, there, listed, remove=remove)
    if todo.conflicts and not replace:
        raise PublishError(_conflict(todo.conflicts, store.uri))
    text = compose(todo.manifest)
    content = text.encode("utf-8", "surrogateescape")
    digest = hashlib.sha256(content).hexdigest()
    written = dict(todo.manifest) != listed
    sent = sum(here[name].bytes for name in todo.uploads)
    result = Published(store.uri, todo, sent, digest, written)
    if dry_run:
        return result
    for number, name in enumerate(todo.uploads, 1):
        note(f"{number}/{len(todo.uploads)} {name} ({here[name].bytes} bytes)")
        store.upload(folder / name, name, here[name].sha256)
        if (folder / name).stat().st_mtime_ns != here[name].changed_ns:
            raise PublishError(
                f"{folder / name} was written to while it was sent; run it again when nothing writes there"
            )
    _look_again(here, store)
    if written:
        store.write(MANIFEST_FILE, content, digest, before)
    for name in todo.removals:
        store.delete(name)
    return result


def _listed(store: Store, manifest: Stored | None) -> dict[str, str]:
    if manifest is None:
        return {}
    if manifest.bytes > _MAX_MANIFEST_BYTES:
        raise PublishError(f"{store.uri}/{MANIFEST_FILE} has {manifest.bytes} bytes, which is no list of ours")
    try:
        return parse(store.read(MANIFEST_FILE).decode("utf-8", "surrogateescape"), f"{store.uri}/{MANIFEST_FILE}")
    except ManifestError as error:
        raise PublishError(f"{error}; remove it if it is not needed") from None


def _look_again(here: Mapping[str, File], store: Store) -> None:
    """Hold what the store says of every object against what was sent; a file that changed meanwhile is seen, too."""
    for name, file in here.items():
        stored = store.describe(name)
        if stored is None:
            raise PublishError(f"{store.uri}/{name} is not there, although it was sent")
        if stored.bytes != file.bytes or stored.sha256 not in (None, file.sha256):
            raise PublishError(
                f"{store.uri}/{name} is not as it was sent: {stored.bytes} bytes, SHA-256 {str(stored.sha256)[:12]}"
                f"..., expected {file.bytes} bytes, {file.sha256[:12]}...; did somebody else publish?"
            )


def _conflict(names: tuple[str, ...], uri: str) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"{', '.join(names[:3])}{more} would change in {uri}, where a service may read it just now; expected a new "
        "version number for another content, or another place (--by-digest), or --replace where nothing serves it"
    )


def fetch(store: Store, folder: Path, note: Callable[[str], None] = lambda text: None) -> tuple[int, int]:
    """Bring what a manifest lists from a store into a folder; what is there already stays.

    A file is written beside its place, held against the manifest, and then renamed.

    Returns:
        How many files came, and how many were there.

    Raises:
        NothingPublished: there is no manifest.
        PublishError: an object is not as it says.
        StoreError: the store cannot be used.
        OSError: a file cannot be written.
    """
    manifest = store.describe(MANIFEST_FILE)
    if manifest is None:
        raise NothingPublished(f"{store.uri} has no {MANIFEST_FILE}; expected a repository of saccade-build publish")
    came = there = 0
    for name, digest in _listed(store, manifest).items():
        path = folder / name
        if path.is_file() and hash_file(path)[0] == digest:
            there += 1
            continue
        note(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            store.download(name, part)
            found, size = hash_file(part)
            if found != digest:
                raise PublishError(
                    f"{store.uri}/{name} is not as {MANIFEST_FILE} says: {size} bytes, SHA-256 {found[:12]}...,"
                    f" listed {digest[:12]}..."
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        came += 1
    return came, there
