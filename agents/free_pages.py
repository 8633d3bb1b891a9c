"""Free pages of memory → the system, once a minute."""

from __future__ import annotations

from mode import Service

from agents.memory import of_glibc

TRIM_EVERY_S = 60.0


class FreePages(Service):
    """Gives free pages back to the system: what a backlog needed would stay with the process otherwise."""

    @Service.task
    async def _trim(self) -> None:
        trim = of_glibc("malloc_trim")
        while trim is not None and not self.should_stop:
            await self.sleep(TRIM_EVERY_S)
            trim(0)
