"""The header that keeps a person on a replica: whose it is, and that it names no session."""

from __future__ import annotations

from memos_vllm.governance.affinity import HEADER, affinity_of, session_of
from tests.conftest import principal


def test_a_person_has_one_value_everywhere_and_no_other_person_has_it():
    ann = affinity_of({}, principal("ann"))
    assert ann == affinity_of({}, principal("ann"))
    others = [principal("bob"), principal("ann", tenant="globex")]
    assert ann not in [affinity_of({}, each) for each in others]
    assert affinity_of({}, principal("")) is None, "a request without a person goes anywhere"
    assert "ann" not in ann.removeprefix("memos-aff-")


def test_what_the_client_sent_stays_and_an_affinity_value_names_no_session():
    ann = affinity_of({}, principal("ann"))
    assert affinity_of({HEADER: "monday"}, principal("ann")) == "monday"
    assert affinity_of({HEADER: ann}, principal("ann")) == ann
    assert session_of(ann) is None
    assert session_of("monday") == "monday"
    assert session_of(None) is None
