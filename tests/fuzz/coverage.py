"""What of the extension modules an input has reached, when coverage.c is preloaded (make fuzz)."""

import ctypes


class Coverage:
    """Counts nothing without the library: every input is then one like the others."""

    def __init__(self, *, orders: bool) -> None:
        self._orders = orders
        program = ctypes.CDLL(None)
        self.guides = hasattr(program, "coverage_new")
        self._program = program

    def begin(self) -> None:
        if self.guides:
            self._program.coverage_begin()

    def new(self) -> int:
        """Places that the input has reached first; of loops also how often, by orders of magnitude."""
        return int(self._program.coverage_new(int(self._orders))) if self.guides else 0

    def total(self) -> int:
        return int(self._program.coverage_total()) if self.guides else 0

    def forget(self) -> None:
        """As if nothing had been reached yet."""
        if self.guides:
            self._program.coverage_forget()
