"""A configuration as a document that is edited."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]
Edit = Callable[[Document, random.Random], bool]
"""Changes a document in place; False: there is nothing here for it to change."""


def some_model(document: Document, drawn: random.Random) -> Document:
    model: Document = document["models"][drawn.choice(sorted(document["models"]))]
    return model


def without_rules(model: Document, holds: Callable[[Document], bool]) -> None:
    model["rules"] = [rule for rule in model.get("rules") or [] if not holds(rule)]
