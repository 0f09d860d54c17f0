"""Stock Locust: ``locust -f loadtest/locustfile.py --host http://127.0.0.1:8080 JpegUser``, then http://localhost:8089.

Also ``--headless -u 20 -r 5 -t 60s``, ``--master`` and ``--worker``; ``SACCADE_SHAPE=ramp`` lets the number of cameras
follow a shape. See docs/loadtest.md.
"""

from saccade_loadtest.locust_users import (
    JpegUser,
    V1User,
    V2BinaryUser,
    V2GrpcUser,
    V2JsonUser,
    shape_from_environment,
)

if (_shape := shape_from_environment()) is not None:
    Shape = _shape

__all__ = ["JpegUser", "V1User", "V2BinaryUser", "V2GrpcUser", "V2JsonUser"]
