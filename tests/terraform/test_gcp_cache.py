"""modules/gcp/cache: its URL leads a client to the Redis that it was made for, and to no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from http1_support import make_certificate
from redis_support import HOST, RedisServer, debian_redis
from terraform_support import Configuration, need_providers, only, resources

PASSWORD = "with / and +"
#: The certificate is for 127.0.0.1 alone: as with Memorystore, the name is not the one that is called.
OTHER_NAME = "localhost"


def tls_redis(folder: Path) -> tuple[RedisServer, str]:
    """A Redis with a password and TLS, not started yet, and the certificate that it shows."""
    folder.mkdir()
    certificate, key = make_certificate(folder)
    server = RedisServer(
        folder,
        *("--port", "0", "--tls-port", "{port}", "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
        *("--tls-auth-clients", "no", "--requirepass", PASSWORD),
        executable=debian_redis(),
        url=f"rediss://{HOST}:{{port}}/0?ssl_ca_certs={certificate}",
        password=PASSWORD,
    )
    return server, certificate.read_text()


def test_the_url_is_enough_to_reach_its_redis_and_none_that_shows_another_certificate(
    sources: Path, tmp_path: Path
) -> None:
    server, certificate = tls_redis(tmp_path / "ours")
    impostor, _ = tls_redis(tmp_path / "impostor")
    answers = tmp_path / "answers.json"
    instance = {
        "host": OTHER_NAME,
        "port": server.port,
        "auth_string": PASSWORD,
        "server_ca_certs": [{"cert": certificate}],
    }
    answers.write_text(json.dumps({"resource": {"google_redis_instance": instance}}))
    module = Configuration(sources / "modules" / "gcp" / "cache", need_providers(), answers)
    module.init()
    module.set(
        {
            "name": "vision",
            "project": "my-project",
            "region": "europe-west4",
            "network_id": "projects/my-project/global/networks/vision",
            "managed_services_range": "vision-managed-services",
            "key_id": "projects/my-project/locations/europe-west4/keyRings/vision/cryptoKeys/cache",
            "url_key_id": "projects/my-project/locations/europe-west4/keyRings/vision/cryptoKeys/cache-url",
        }
    )
    module.apply()
    state = json.loads(module.run("show", "-json"))["values"]
    url = only(resources({"planned_values": state}, "google_secret_manager_secret_version"))["secret_data"]
    try:
        server.start()
        with redis.Redis.from_url(url) as client:
            assert client.ping()
        impostor.start()
        with (
            redis.Redis.from_url(url.replace(f":{server.port}/", f":{impostor.port}/")) as client,
            pytest.raises(redis.ConnectionError, match="certificate verify failed"),
        ):
            client.ping()
    finally:
        for one in (server, impostor):
            one.client.close()
            one.kill()
