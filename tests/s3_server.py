"""A server of S3's protocol as a process of its own: moto's."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from integration_support import HOST, eventually
from measuring.processes import free_port


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """Its URL; it begins without buckets, and is ended afterwards."""
    port = free_port()
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    url = f"http://{HOST}:{port}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/moto-api/", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        eventually("the S3 server answers", answers, 60)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def environment(url: str) -> dict[str, str]:
    """What AWS' tools read to find it."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/nonexistent",
    }
