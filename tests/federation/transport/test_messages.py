"""Counts on their way, and what they add up to."""

from __future__ import annotations

import json
from dataclasses import asdict

from tardis_fl.federation.transport.messages import Counts


def test_counts_add_up_and_survive_a_record():
    one, two = Counts(3, 1.5, (1, 2)), Counts(5, 0.5, (4, 0))
    assert one + two == two + one == Counts(8, 2.0, (5, 2))
    assert one + Counts() == one
    assert Counts.from_record((one + two).to_record()) == Counts(8, 2.0, (5, 2))


def test_clients_of_other_depths_leave_each_exit_with_its_own_denominator():
    shallow, deep = Counts(10, 1.0, (4,)), Counts(5, 1.0, (3, 2, 1), answered=(1, 2, 2))
    total = shallow + deep
    assert total.correct == (7, 2, 1)
    assert total.seen == (15, 5, 5)
    assert total.answered == (1, 2, 2)
    assert Counts.from_record(json.loads(json.dumps(asdict(total)))) == total
