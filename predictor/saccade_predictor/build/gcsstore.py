"""A model repository in Google Cloud Storage, by Google's library (``STORAGE_EMULATOR_HOST`` for a stand-in)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import requests
from google.api_core.exceptions import Forbidden, GoogleAPIError, NotFound, PreconditionFailed, Unauthorized
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.cloud import storage

from saccade_predictor.build.stores import DIGEST_KEY, Overtaken, Stored, StoreError

#: Of one call without an answer, in seconds: to connect, and between two pieces.
_TIMEOUT_S: Final = (10, 60)


class GcsStore:
    """See ``stores.Store``."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._prefix = f"{prefix}/" if prefix else ""
        self.uri = f"gs://{bucket}/{prefix}".rstrip("/")
        with self._sentences():
            # The project matters for making buckets alone, which is not done here.
            client: Any = storage.Client(project="saccade")
            self._bucket: Any = client.bucket(bucket)

    def sizes(self) -> dict[str, int]:
        """See ``stores.Store``."""
        with self._sentences():
            listed = self._bucket.list_blobs(prefix=self._prefix or None, timeout=_TIMEOUT_S)
            return {blob.name.removeprefix(self._prefix): int(blob.size) for blob in listed}

    def describe(self, name: str) -> Stored | None:
        """See ``stores.Store``."""
        with self._sentences(name):
            blob = self._bucket.get_blob(self._prefix + name, timeout=_TIMEOUT_S)
        if blob is None:
            return None
        return Stored(int(blob.size), (blob.metadata or {}).get(DIGEST_KEY), str(blob.generation))

    def upload(self, path: Path, name: str, sha256: str) -> None:
        """See ``stores.Store``."""
        blob = self._blob(name, sha256)
        with self._sentences(name):
            blob.upload_from_filename(str(path), checksum="crc32c", timeout=_TIMEOUT_S)

    def write(self, name: str, content: bytes, sha256: str, over: Stored | None) -> None:
        """See ``stores.Store``."""
        blob = self._blob(name, sha256)
        generation = 0 if over is None else int(over.token)
        with self._sentences(name):
            blob.upload_from_string(content, if_generation_match=generation, checksum="crc32c", timeout=_TIMEOUT_S)

    def read(self, name: str) -> bytes:
        """See ``stores.Store``."""
        with self._sentences(name):
            content: bytes = self._bucket.blob(self._prefix + name).download_as_bytes(timeout=_TIMEOUT_S)
        return content

    def download(self, name: str, path: Path) -> None:
        """See ``stores.Store``."""
        with self._sentences(name):
            self._bucket.blob(self._prefix + name).download_to_filename(str(path), timeout=_TIMEOUT_S)

    def delete(self, name: str) -> None:
        """See ``stores.Store``."""
        with self._sentences(name):
            try:
                self._bucket.blob(self._prefix + name).delete(timeout=_TIMEOUT_S)
            except NotFound:
                return

    def _blob(self, name: str, sha256: str) -> Any:
        blob = self._bucket.blob(self._prefix + name)
        blob.metadata = {DIGEST_KEY: sha256}
        return blob

    @contextmanager
    def _sentences(self, name: str = "") -> Iterator[None]:
        where = f"{self.uri}/{name}" if name else self.uri
        try:
            yield
        except DefaultCredentialsError:
            raise StoreError(
                f"{where}: there are no credentials; gcloud auth application-default login, "
                "GOOGLE_APPLICATION_CREDENTIALS, or the machine's or pod's service account give them"
            ) from None
        except PreconditionFailed:
            raise Overtaken(f"{where} was written by somebody else meanwhile; run it again") from None
        except NotFound:
            raise StoreError(f"{where}: there is no such bucket or object") from None
        except (Forbidden, Unauthorized) as error:
            raise StoreError(
                f"{where}: access is denied; the credentials need the role Storage Object Admin there"
                f" ({error.message})"
            ) from None
        except (GoogleAPIError, GoogleAuthError, requests.exceptions.RequestException) as error:
            raise StoreError(f"{where}: {error}") from None
