"""Files that no model has a use for are refused before anything is read."""

from __future__ import annotations

import pytest

from streams.configure import load
from streams.errors import ConfigError
from streams.inputs import DECLARED_BY, check_inputs
from streams.plan import Facts, Plan, compile_plan
from tests import scenario

BARE = "models: {credit: {pane: 1m, features: {age: {type: numeric}}}}"


def bare() -> Plan:
    return compile_plan(load(BARE), {})


def test_what_a_model_declares_is_taken() -> None:
    check_inputs(scenario.plan(), "foreshock.yaml", labelled=True, side_inputs=Facts)


def test_events_alone_need_no_declaration() -> None:
    check_inputs(bare(), "foreshock.yaml", labelled=False, side_inputs=())


def test_labels_that_no_model_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"foreshock\.yaml: .*--labels, but no model with 'labels:'.*init --labels"):
        check_inputs(bare(), "foreshock.yaml", labelled=True, side_inputs=())


@pytest.mark.parametrize("kind", Facts)
def test_a_side_input_that_no_model_declares_is_refused_with_the_key_that_would(kind: Facts) -> None:
    with pytest.raises(ConfigError, match=f"--{kind}, but no model that declares any.*'{DECLARED_BY[kind]}:'"):
        check_inputs(bare(), "foreshock.yaml", labelled=False, side_inputs=[kind])
