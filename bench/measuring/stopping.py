"""A bench ends when it is asked to: by Ctrl-C, by SIGTERM, by its terminal that went away."""

from __future__ import annotations

import signal
from typing import Final, NoReturn

_ASKED: Final[list[int]] = []


def end_as_ctrl_c_does() -> None:
    """From now on SIGTERM and SIGHUP end this process as Ctrl-C does, so that what it started is stopped.

    Python loses a KeyboardInterrupt that is raised while an object's finalizer runs (of an answer of ``http.client``:
    one in 400 that meet its reading). It is remembered, and :func:`stop_if_asked` raises it again.
    """
    _ASKED.clear()
    signals = [signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored
        signals.append(signal.SIGINT)
    for sig in signals:
        signal.signal(sig, _stop)


def stop_if_asked() -> None:
    """Call between the steps of long work.

    Raises:
        KeyboardInterrupt: the process was asked to end.
    """
    if _ASKED:
        raise KeyboardInterrupt


def _stop(sig: int, _frame: object) -> NoReturn:
    _ASKED.append(sig)
    raise KeyboardInterrupt
