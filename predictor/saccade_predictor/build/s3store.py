"""A model repository in S3, or in what speaks its protocol (``AWS_ENDPOINT_URL``), by boto3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from saccade_predictor.build.stores import DIGEST_KEY, Overtaken, Stored, StoreError

_CONFIG: Final = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "max_attempts": 5})
_MISSING: Final = {"404", "NoSuchKey", "NotFound"}
_CHANGED: Final = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}
_REASONS: Final = {
    "NoSuchBucket": "there is no bucket of that name",
    "AccessDenied": "access is denied; the credentials need s3:ListBucket, s3:GetObject and s3:PutObject there",
    "403": "access is denied; the credentials need s3:ListBucket, s3:GetObject and s3:PutObject there",
    "InvalidAccessKeyId": "the access key is unknown",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "ExpiredToken": "the credentials have expired",
}


class S3Store:
    """See ``stores.Store``."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        with self._sentences():
            self._client: Any = boto3.session.Session().client("s3", config=_CONFIG)

    def sizes(self) -> dict[str, int]:
        """See ``stores.Store``."""
        found = {}
        with self._sentences():
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                for one in page.get("Contents", ()):
                    found[one["Key"].removeprefix(self._prefix)] = int(one["Size"])
        return found

    def describe(self, name: str) -> Stored | None:
        """See ``stores.Store``."""
        with self._sentences(name):
            try:
                head = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
        return Stored(int(head["ContentLength"]), head["Metadata"].get(DIGEST_KEY), head["ETag"])

    def upload(self, path: Path, name: str, sha256: str) -> None:
        """See ``stores.Store``."""
        with self._sentences(name):
            self._client.upload_file(
                str(path), self._bucket, self._prefix + name, ExtraArgs={"Metadata": {DIGEST_KEY: sha256}}
            )

    def write(self, name: str, content: bytes, sha256: str, over: Stored | None) -> None:
        """See ``stores.Store``."""
        condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over.token}
        with self._sentences(name):
            self._client.put_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                Body=content,
                Metadata={DIGEST_KEY: sha256},
                **condition,
            )

    def read(self, name: str) -> bytes:
        """See ``stores.Store``."""
        with self._sentences(name):
            content: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
        return content

    def download(self, name: str, path: Path) -> None:
        """See ``stores.Store``."""
        with self._sentences(name):
            self._client.download_file(self._bucket, self._prefix + name, str(path))

    def delete(self, name: str) -> None:
        """See ``stores.Store``."""
        with self._sentences(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextmanager
    def _sentences(self, name: str = "") -> Iterator[None]:
        where = f"{self.uri}/{name}" if name else self.uri
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError):
            raise StoreError(
                f"{where}: there are no credentials; AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the "
                "role of the machine or pod give them"
            ) from None
        except ClientError as error:
            code = _code(error)
            if code in _CHANGED:
                raise Overtaken(f"{where} was written by somebody else meanwhile; run it again") from None
            message = error.response.get("Error", {}).get("Message", "")
            raise StoreError(f"{where}: {_REASONS.get(code, f'{message} ({code})')}") from None
        except (BotoCoreError, S3UploadFailedError) as error:
            raise StoreError(f"{where}: {error}") from None


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
