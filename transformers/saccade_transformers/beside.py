"""Work beside the requests, the shadow's and the audits', begins when the answer that it belongs to is out."""

from __future__ import annotations

from typing import Final

#: Seconds from a request's end to the beginning of such work. A request ends before its answer is written, and to send
#: a tensor elsewhere takes a millisecond of the event loop; and its client is to have the cores before others.
BEHIND_S: Final = 0.01
