"""Findings: on one line, for programs, and of several nodes as one."""

import json

from cluster.doctor.result import (
    Result,
    Status,
    fault,
    first_few,
    not_applicable,
    of_nodes,
    ok,
    warning,
)


def test_a_line_has_the_status_the_check_the_place_and_what_to_do():
    bad = Result("disk", "", fault("is full", "free some"), 0.1)
    assert bad.line() == "fault           disk: is full → free some"
    fine = Result("disk", "2 other nodes", ok("has room"), 0.1)
    assert fine.line() == "ok              disk (2 other nodes): has room"


def test_a_record_is_json_with_the_numbers():
    record = Result("disk", "a", warning("w", "r", free_gib=1.5), 0.12345).record()
    assert json.loads(json.dumps(record)) == {
        "check": "disk",
        "where": "a",
        "status": "warning",
        "finding": "w",
        "remedy": "r",
        "seconds": 0.123,
        "numbers": {"free_gib": 1.5},
    }


def test_of_several_nodes_the_worst_counts_and_is_named():
    found = of_nodes({"a": ok("fine"), "b": fault("bad", "mend"), "c": warning("so", "x")})
    assert (found.status, found.text, found.remedy) == (Status.FAULT, "b: bad", "mend")
    found = of_nodes({"a": not_applicable("no"), "b": ok("fine")})
    assert (found.status, found.text) == (Status.OK, "all 2: fine")
    found = of_nodes({"a": not_applicable("no"), "b": not_applicable("no")})
    assert (found.status, found.text) == (Status.NOT_APPLICABLE, "all 2: no")
    found = of_nodes({name: fault("bad") for name in "abcde"})
    assert found.text == "a: bad; b: bad; c: bad; and 2 more"


def test_a_finding_keeps_what_was_measured():
    for found in (ok("x", s=1.5), warning("x", "y", s=1.5), fault("x", "y", s=1.5)):
        assert found.numbers == {"s": 1.5}


def test_a_few_are_named_and_the_others_counted():
    assert first_few(["a", "b", "c"]) == "a; b; c"
    assert first_few(["a", "b", "c", "d"]) == "a; b; c; and 1 more"
