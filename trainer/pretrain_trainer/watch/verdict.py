"""Whether a rank whose time is up belongs to a group that hangs, and what is to be said of it. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pretrain_trainer.watch.board import Beat

GOES_ON = "the group ends, to go on from its newest checkpoint"


def sentence(own: Beat, answering: Mapping[int, Beat], silent: Collection[int]) -> str | None:
    """Why the group ends, as the rank says that has waited for `own.seconds`; None if it waits for another that has time left
    and is not further than it.

    answering: what the others say. silent: those that say nothing.
    """
    for_long = f"for {own.seconds:.0f} s at step {own.step}"
    if silent:
        who = ranks(silent)
        its = "its process was" if len(silent) == 1 else "their processes were"
        return f"{who} did not answer {for_long}: {its} stopped, hang outside of Python, or the machine is gone; {GOES_ON}"
    elsewhere = {rank: beat for rank, beat in answering.items() if (beat.step, beat.phase) != (own.step, own.phase)}
    if any(beat.seconds < beat.limit for beat in elsewhere.values() if beat.step <= own.step):
        return None
    where = "".join(f"; rank {rank} is at step {beat.step}, {beat.phase}" for rank, beat in sorted(elsewhere.items()))
    return f"no rank got on {for_long}, {own.phase}, though all answer: their stacks say where they wait{where}; {GOES_ON}"


def unheard(rank: int, beat: Beat, silence: float) -> str:
    """What the launcher of a rank says that has neither beaten for `silence` seconds nor time left."""
    return sentence(_later(beat, silence), {}, [rank]) or ""


def out_of_time(beat: Beat, silence: float) -> bool:
    """Whether the phase that a rank was in when it fell silent must be over."""
    return beat.seconds + silence > beat.limit


def ranks(numbers: Collection[int], most: int = 8) -> str:
    """Ranks by number, not all of very many."""
    shown = ", ".join(map(str, sorted(numbers)[:most]))
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _later(beat: Beat, seconds: float) -> Beat:
    return Beat(beat.number, beat.pid, beat.step, beat.phase, beat.seconds + seconds, beat.limit)
