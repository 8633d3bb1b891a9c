"""Who gets which partitions: the laws of `streams.assign`, and that it is what aiokafka's groups are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from types import SimpleNamespace
from typing import Any

from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from agents.assignor import StickyAssignor
from streams.active import HASH_BYTES, MAX_LISTED, Configuration, active, configured
from streams.assign import Claims, assign

NUMBERS = st.integers(-1, 12)
COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=4)
NAMES = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5, unique=True)


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[int], dict[str, Claims]]:
    """Topics and members, which may claim anything: what is gone, and what others claim."""
    numbers = st.lists(NUMBERS, max_size=12).map(tuple)
    return draw(COUNTS), {name: Claims(draw(numbers), draw(numbers)) for name in draw(NAMES)}


def shares(found: Mapping[str, Iterable[int]], count: int) -> list[int]:
    """Of each member, the partitions of a topic."""
    return [sum(number < count for number in numbers) for numbers in found.values()]


@given(groups())
def test_every_topic_is_read_and_shared_evenly(group: tuple[list[int], dict[str, Claims]]) -> None:
    """Whatever the members claim."""
    counts, claims = group
    found = assign(counts, claims)
    assert found.keys() == claims.keys()
    assert sorted(number for numbers in found.values() for number in numbers) == list(range(max(counts)))
    for count in counts:
        assert max(shares(found, count)) - min(shares(found, count)) <= 1


@given(groups())
def test_nothing_moves_without_a_cause(group: tuple[list[int], dict[str, Claims]]) -> None:
    counts, claims = group
    found = assign(counts, claims)
    assert assign(counts, {name: Claims(tuple(numbers)) for name, numbers in found.items()}) == found


@given(
    st.integers(1, 6).flatmap(
        lambda n: st.tuples(st.just(n), st.lists(st.sampled_from("abc-"), min_size=n, max_size=n))
    ),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True),
)
def test_no_more_moves_than_have_to(had: tuple[int, list[str]], members: list[str]) -> None:
    """Members came, went, or stay; the best of all balanced assignments keeps as many where they were."""
    count, owners = had
    claims = {name: Claims(tuple(n for n, owner in enumerate(owners) if owner == name)) for name in members}
    found = assign([count], claims)
    kept = sum(n in found[name] for name in members for n in claims[name].held)
    best = max(
        sum(owner == before for owner, before in zip(chosen, owners, strict=True))
        for chosen in product(members, repeat=count)
        if max(map(chosen.count, members)) - min(map(chosen.count, members)) <= 1
    )
    assert kept == best


def test_a_fourth_worker_takes_a_quarter_and_moves_nothing_else() -> None:
    """aiokafka's own assignor moves half of the partitions then."""
    before = {name: Claims(tuple(range(4 * at, 4 * at + 4))) for at, name in enumerate("abc")}
    found = assign([12], {**before, "d": Claims()})
    assert {name: len(numbers) for name, numbers in found.items()} == dict.fromkeys("abcd", 3)
    assert all(set(found[name]) <= set(before[name].held) for name in before)


def test_a_worker_that_comes_back_gets_what_is_on_its_disk() -> None:
    """Another has had all of it meanwhile."""
    found = assign([8], {"a": Claims(tuple(range(8)), (4, 5, 6, 7)), "b": Claims((), (0, 1, 2, 3))})
    assert found == {"a": [4, 5, 6, 7], "b": [0, 1, 2, 3]}


def test_what_are_no_claims_are_none() -> None:
    assert Claims.from_bytes(b"") == Claims.from_bytes(b"\xff\x00garbage") == Claims()
    assert Claims.from_bytes(Claims((1, 2), (3,)).to_bytes()) == Claims((1, 2), (3,))


def cluster(**counts: int) -> Any:
    return SimpleNamespace(partitions_for_topic=lambda topic: set(range(counts[topic])) if topic in counts else None)


def given_to(found: Mapping[str, Any]) -> dict[str, dict[str, list[int]]]:
    return {member: dict(assignment.assignment) for member, assignment in found.items()}


def test_co_partitioned_topics_stay_together_over_a_rebalance() -> None:
    topics = cluster(inference=4, labels=4, runs=2)
    one, two = StickyAssignor(), StickyAssignor(lambda: [3])
    alone = one.assign(topics, {"one": one.metadata(["inference", "labels", "runs"])})
    one.on_assignment(alone["one"])
    wishes = {name: each.metadata(["inference", "labels", "runs"]) for name, each in (("two", two), ("one", one))}
    found = given_to(two.assign(topics, wishes))
    assert found == {
        "one": {"inference": [0, 2], "labels": [0, 2], "runs": [0]},
        "two": {"inference": [1, 3], "labels": [1, 3], "runs": [1]},
    }


def test_members_get_only_what_they_read() -> None:
    """In the middle of a change of the configuration."""
    found = given_to(
        StickyAssignor().assign(
            cluster(inference=2, labels=2),
            {
                "new": ConsumerProtocolMemberMetadata(0, ["inference", "labels", "nowhere"], b""),
                "old": ConsumerProtocolMemberMetadata(0, ["inference"], b""),
            },
        )
    )
    assert found["new"]["labels"] == [0, 1] and "labels" not in found["old"]
    assert len(found["new"]["inference"]) == len(found["old"]["inference"]) == 1


def test_an_earlier_release_can_lead_the_group() -> None:
    """It knows nothing of claims, and both call what they do by the same name."""
    sticky = StickyAssignor()
    assert sticky.name == RangePartitionAssignor.name
    wishes = {"new": sticky.metadata(["t"]), "old": RangePartitionAssignor.metadata(["t"])}
    for leader in (sticky, RangePartitionAssignor):
        found = given_to(leader.assign(cluster(t=3), wishes))
        assert sorted(found["new"]["t"] + found["old"]["t"]) == [0, 1, 2]


# --- Which configuration is active


def hashes(names: Iterable[str]) -> list[bytes]:
    return [name.encode().ljust(HASH_BYTES) for name in names]


def claimed(parts: str) -> Claims:
    """The claims of a member whose configuration has these parts; none says of an earlier release."""
    ours = configured(hashes(parts)) if parts else Configuration()
    return Claims(digest=ours.digest, parts=ours.parts)


MEMBERS = st.lists(st.text("abcd", max_size=4).map(lambda text: "".join(sorted(set(text)))), min_size=1, max_size=7)


@given(MEMBERS)
def test_the_configuration_with_all_that_any_has_is_active_and_else_that_of_most(members: list[str]) -> None:
    chosen = active(map(claimed, members))
    have = {parts for parts in members if claimed(parts).digest == chosen}
    assert len(have) == 1, "members of one configuration alone"
    whole = set("".join(members))
    if "" not in members and any(set(parts) == whole for parts in members):
        assert set(have.pop()) == whole
    else:
        assert members.count(have.pop()) == max(map(members.count, members))


@given(MEMBERS, st.randoms(use_true_random=False))
def test_whoever_leads_chooses_alike(members: list[str], random: Any) -> None:
    shuffled = random.sample(members, len(members))
    assert active(map(claimed, members)) == active(map(claimed, shuffled))


def test_a_large_configuration_is_known_by_its_digest_alone() -> None:
    large = configured(n.to_bytes(HASH_BYTES, "big") for n in range(MAX_LISTED + 1))
    assert large.digest and not large.parts
    one = Claims(digest=large.digest)
    assert active([claimed("a"), claimed("a"), one]) == claimed("a").digest


@given(MEMBERS)
def test_every_member_is_told_what_is_active_and_what_it_is_taken_for(members: list[str]) -> None:
    assignors = {
        f"m{at}": StickyAssignor(configuration=configured(hashes(parts)) if parts else Configuration())
        for at, parts in enumerate(members)
    }
    cluster: Any = SimpleNamespace(partitions_for_topic=lambda topic: set(range(6)))
    told = {name: assignor.metadata(["t"]) for name, assignor in assignors.items()}
    found = assignors["m0"].assign(cluster, told)
    numbers = sorted(tp.partition for item in found.values() for tp in item.partitions())
    assert numbers == list(range(6))
    chosen = active(map(claimed, members))
    for name, assignor in assignors.items():
        assignor.on_assignment(found[name])
        waits = assignor.configuration.digest != chosen
        assert (bool(assignor.waits), assignor.is_stale, assignor.made_of) == (waits, False, {"t": 6})
        assert not (waits and found[name].partitions())
        assignor.configuration = configured(hashes("z"))
        assignor.on_assignment(found[name])
        assert assignor.is_stale and assignor.held == frozenset()
