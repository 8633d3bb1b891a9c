"""What is promised to consumers: the documents are those that the code makes, and what is sent keeps to them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest

from deploy.make_contract import FOLDER, TAKEN, asyncapi, files, schema
from streams.ack import read_ack
from streams.events import Invalid
from streams.plan import Facts
from tests.replay.test_inhibition import outcomes
from tests.replay.test_labelled_streams import replayed, rows
from tests.scenario import records


def test_the_documents_are_what_the_code_makes() -> None:
    assert {file.name for file in FOLDER.iterdir()} == {file.name for file in files()}
    for file, text in files().items():
        assert file.read_text(encoding="utf-8") == text, "run 'python -m deploy.make_contract'"


@pytest.mark.parametrize("name", ["actions", "windows"])
def test_everything_that_is_sent_keeps_to_its_schema(name: str) -> None:
    validator = jsonschema.Draft202012Validator(schema(name))
    sent = [item for outcome in outcomes() for item in getattr(outcome, name)]
    assert len(sent) > 20
    for item in sent:
        validator.validate(json.loads(msgspec.json.encode(item)))
    broken = json.loads(msgspec.json.encode(sent[0]))
    broken.pop("data" if name == "actions" else "counts")
    assert not validator.is_valid(broken)


def test_states_and_reasons_are_told_by_name() -> None:
    text = json.dumps(schema("actions"))
    assert all(f'"{word}"' in text for word in ("firing", "suppressed", "resolved", "released", "suppressed_by_layer"))


def test_what_is_taken_keeps_to_its_schema_too() -> None:
    for event, label in rows(1, 1):
        jsonschema.validate(json.loads(event), TAKEN["inference"])
        assert label is not None
        jsonschema.validate(json.loads(label[1]), TAKEN["labels"])
    assert replayed(None)[2].models["credit"].rejected == 0


@pytest.mark.parametrize("name", ["inference", "labels", *Facts])
def test_what_a_bad_day_writes_to_each_topic_keeps_to_its_schema(name: str) -> None:
    found = [json.loads(value) for _, value in records()[name]]
    validator = jsonschema.Draft202012Validator(TAKEN[name])
    assert found and all(map(validator.is_valid, found[:500]))
    assert not any(
        validator.is_valid({**found[0], field: None}) for field in TAKEN[name]["required"] if field != "label"
    )


def test_an_ack_that_is_taken_keeps_to_its_schema_and_one_that_does_not_is_refused() -> None:
    validator = jsonschema.Draft202012Validator(schema("acks"))
    said = {"action_id": "a1", "status": "acted", "by": "ann", "ts": "2026-01-05T00:00:00Z", "note": "rolled back"}
    for ack in (said, said | {"ts": 1_767_571_200_000}, {k: v for k, v in said.items() if k != "note"}):
        validator.validate(ack)
        assert read_ack(json.dumps(ack).encode()).action_id == "a1"
    wrong = [said | change for change in ({"status": "ignored"}, {"by": ""}, {"more": 1}, {"note": "x" * 2_001})]
    for ack in (*wrong, {k: v for k, v in said.items() if k != "by"}):
        assert not validator.is_valid(ack)
        with pytest.raises(Invalid):
            read_ack(json.dumps(ack).encode())


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    document = asyncapi()

    def look(part: Any) -> None:
        if isinstance(part, dict):
            if "$ref" in part:
                found: Any = document
                for key in part["$ref"].removeprefix("#/").split("/"):
                    found = found[key]
                assert found
            for inner in part.values():
                look(inner)
        elif isinstance(part, list):
            for inner in part:
                look(inner)

    look(document)
    told = {"feedback", "runs", "outcomes"}
    assert set(document["channels"]) == {"inference", "labels", "actions", "windows", "acks", *told}
