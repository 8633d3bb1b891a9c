"""Position of an evaluation and the panes that hold something → the next pane to close, on every clock.

Silence is evaluated as far as the longest window reaches into it, and a little further. After that the windows are
empty, all alike, and have been evaluated: the cursor steps over the rest, however long it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

MAX_EMPTY_PANES = 3
"""Empty panes that are evaluated beyond the longest window when the stream is silent."""


@dataclass(frozen=True, slots=True)
class PaneCursor:
    """Gives the panes of one clock in event-time order; it never skips one that holds something.

    Parameters
    ----------
    pane_ms, longest_window_ms
        Lengths of a pane, and of the longest window that is evaluated after it.
    evaluates_open_silence
        Whether panes are evaluated after the last one that holds something; else the next one is waited for.
    """

    pane_ms: int
    longest_window_ms: int
    evaluates_open_silence: bool = True

    @property
    def reach_ms(self) -> int:
        """So far a pane may lie behind the last one that holds something."""
        return self.longest_window_ms + MAX_EMPTY_PANES * self.pane_ms

    def next_start(self, position_ms: int, held: Collection[int], last_ms: int) -> int | None:
        """Start of the next pane to close, at `position_ms` or later; None: none can be named yet.

        Parameters
        ----------
        position_ms
            End of the pane that was evaluated last.
        held
            Starts of the panes that hold something.
        last_ms
            Start of the last pane before the position that held something, if none of `held` lies there.
        """
        if position_ms in held:
            return position_ms
        later_ms = min((at for at in held if at > position_ms), default=None)
        if later_ms is None and not self.evaluates_open_silence:
            return None
        last_ms = max((at for at in held if at < position_ms), default=last_ms)
        return position_ms if position_ms - last_ms <= self.reach_ms else later_ms

    def starts(
        self, until_ms: int, position: Callable[[], int | None], held: Callable[[], Collection[int]], last_ms: int
    ) -> Iterator[int]:
        """Starts of the panes that end by `until_ms`, in event-time order.

        Protocol: whoever takes a start evaluates its pane, which moves the position to the end of the pane, and only
        then takes the next one.

        Parameters
        ----------
        position
            End of the pane that was evaluated last, or where to begin; None: nothing is known yet.
        held, last_ms
            As in `next_start`; `held` is asked anew for every pane.

        Raises
        ------
        RuntimeError
            The pane that was taken last has not been evaluated.
        """
        while (position_ms := position()) is not None:
            start_ms = self.next_start(position_ms, held(), last_ms)
            if start_ms is None or start_ms + self.pane_ms > until_ms:
                return
            yield start_ms
            if position() != start_ms + self.pane_ms:
                raise RuntimeError(f"the pane at {start_ms} was taken and not evaluated")
