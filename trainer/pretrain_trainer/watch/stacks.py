"""Where the threads of this process stand."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import sys
import threading
import traceback


def stacks() -> str:
    """The stack of each thread, the main one first, the asking one left out."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = {ident: frame for ident, frame in sys._current_frames().items() if ident != threading.get_ident()}
    main = threading.main_thread().ident
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frames[ident])).rstrip()}"
        for ident in sorted(frames, key=lambda ident: (ident != main, ident))
    )


def stacks_on_signal() -> None:
    """From now on SIGUSR1 writes the stacks to standard error, also while Python itself cannot run."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # there is no such stream, or no such signal
        faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
