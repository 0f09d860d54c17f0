"""Where a model repository is kept for a cluster: what ``saccade-build publish`` and ``fetch`` need of a store.

A store is a bucket and a prefix; names are relative to it, with slashes. The stores themselves are ``s3store.py`` and
``gcsstore.py``; what is written and in which order is ``publishing.py``'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

#: Metadata of every object that is published: SHA-256 of its content, as hex.
DIGEST_KEY: Final = "sha256"
_URI: Final = re.compile(r"^(s3|gs)://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])(?:/(.*))?$", re.DOTALL)


class StoreError(Exception):
    """The store cannot be used: no such bucket, no right, no credentials, no answer. The sentence says which."""


class Overtaken(StoreError):
    """An object that should be replaced is not the one that was read: somebody else has written it."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as the store describes it.

    Attributes:
        bytes: its size.
        sha256: what its metadata says of its content; None where whoever wrote it said nothing.
        token: names this state of the object, for ``Store.write``.
    """

    bytes: int
    sha256: str | None
    token: str


class Store(Protocol):
    """A bucket and a prefix. Every method raises ``StoreError``."""

    @property
    def uri(self) -> str:
        """The prefix as a person writes it, without a slash at its end."""
        ...

    def sizes(self) -> dict[str, int]:
        """Names of all objects under the prefix, with their sizes in bytes."""
        ...

    def describe(self, name: str) -> Stored | None:
        """One object; None where there is none."""
        ...

    def upload(self, path: Path, name: str, sha256: str) -> None:
        """Write a file as an object, in one step however large: nobody sees a part of it."""
        ...

    def write(self, name: str, content: bytes, sha256: str, over: Stored | None) -> None:
        """Write a small object in place of ``over`` (None: in place of nothing), or raise ``Overtaken``."""
        ...

    def read(self, name: str) -> bytes:
        """A small object's content."""
        ...

    def download(self, name: str, path: Path) -> None:
        """Write an object's content to a file."""
        ...

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...


def split(uri: str) -> tuple[str, str, str]:
    """Scheme, bucket and prefix of ``s3://BUCKET/PREFIX`` or ``gs://BUCKET/PREFIX``, slashes around it left out.

    Raises:
        ValueError: it is neither.
    """
    match = _URI.match(uri)
    prefix = match[3] or "" if match else ""
    if match is None or not prefix.isprintable() or "//" in prefix.strip("/") or ".." in prefix.split("/"):
        raise ValueError(f"{uri!r} is no place in an object store; expected s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
    return match[1], match[2], prefix.strip("/")


def open_store(uri: str) -> Store:
    """The store of a URI. Credentials are the machine's own: the clouds' libraries look for them as always.

    Raises:
        ValueError: the URI is none.
        StoreError: the store's library is not installed, or there are no credentials.
    """
    scheme, bucket, prefix = split(uri)
    try:
        if scheme == "s3":
            from saccade_predictor.build.s3store import S3Store

            return S3Store(bucket, prefix)
        from saccade_predictor.build.gcsstore import GcsStore

        return GcsStore(bucket, prefix)
    except ImportError as error:
        raise StoreError(
            f"{uri} needs the library {error.name}, which is not installed: in the checkout make dev, or after make "
            "demo .venv/bin/pip install --require-hashes -r requirements/publish.txt"
        ) from None
