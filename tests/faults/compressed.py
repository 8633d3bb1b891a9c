"""`foreshock`, where what takes hours to fill, or to be let go of, takes a minute: for the soak."""

from __future__ import annotations

from rocksdict import Cache

from agents import cli, free_pages, joins, store
from streams import ledger, merge

if __name__ == "__main__":
    merge.MOST_MATURITY_PANES = 20  # labels take three
    ledger.MOST_SPANS = 400
    free_pages.TRIM_EVERY_S = 5.0
    joins.PATIENCE_MS = 30_000
    store.WRITE_BUFFER_BYTES = 2 << 20
    store._cache = Cache(4 << 20)
    cli.main()
