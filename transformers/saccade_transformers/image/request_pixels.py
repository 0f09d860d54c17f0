"""The pixels of all images of one request: many small files can be more work than one that is too large."""

from __future__ import annotations

import threading

from saccade_serving.errors import PayloadTooLarge


class RequestPixels:
    """Adds up what the headers of a request's images say, before each is decoded. Threads may share it.

    Args:
        limit: most pixels of one request.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, width: int, height: int) -> None:
        """Count one image.

        Raises:
            PayloadTooLarge: with this image the request is over the limit.
        """
        with self._lock:
            self._taken += width * height
            taken = self._taken
        if taken > self._limit:
            raise PayloadTooLarge("the request with all images up to this one", taken, self._limit, "pixels")
