"""Times in text, relative to Wednesday 17 May 2023."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memos_vllm.plaintext.english.times import TimeRange, find_times

NOW = datetime(2023, 5, 17, 14, 30, tzinfo=UTC)
CASES = [
    # days
    ("yesterday", "2023-05-16", "2023-05-17"),
    ("the day before yesterday", "2023-05-15", "2023-05-16"),
    ("today", "2023-05-17", "2023-05-18"),
    ("this morning", "2023-05-17", "2023-05-18"),
    ("tonight", "2023-05-17", "2023-05-18"),
    ("last night", "2023-05-16", "2023-05-17"),
    ("tomorrow evening", "2023-05-18", "2023-05-19"),
    ("the day after tomorrow", "2023-05-19", "2023-05-20"),
    ("three days ago", "2023-05-14", "2023-05-15"),
    ("in 3 days", "2023-05-20", "2023-05-21"),
    ("an hour ago", "2023-05-17", "2023-05-18"),
    # days of the week
    ("last Friday", "2023-05-12", "2023-05-13"),
    ("last Wednesday", "2023-05-10", "2023-05-11"),
    ("next Wednesday", "2023-05-24", "2023-05-25"),
    ("this Friday", "2023-05-19", "2023-05-20"),
    ("next Tuesday", "2023-05-23", "2023-05-24"),
    ("We met on Friday", "2023-05-12", "2023-05-13"),
    ("I will call you on Friday", "2023-05-19", "2023-05-20"),
    ("I have an appointment on Monday", "2023-05-22", "2023-05-23"),
    ("from Monday to Friday", "2023-05-15", "2023-05-20"),
    ("last weekend", "2023-05-13", "2023-05-15"),
    ("this weekend", "2023-05-20", "2023-05-22"),
    ("next weekend", "2023-05-27", "2023-05-29"),
    # weeks, months, years from now
    ("two weeks ago", "2023-05-01", "2023-05-08"),
    ("a couple of weeks ago", "2023-05-01", "2023-05-08"),
    ("a few days ago", "2023-05-11", "2023-05-16"),
    ("next week", "2023-05-22", "2023-05-29"),
    ("in two weeks' time", "2023-05-29", "2023-06-05"),
    ("last month", "2023-04-01", "2023-05-01"),
    ("next month", "2023-06-01", "2023-07-01"),
    ("three months from now", "2023-08-01", "2023-09-01"),
    ("last year", "2022-01-01", "2023-01-01"),
    ("ten years ago", "2013-01-01", "2014-01-01"),
    ("the past two weeks", "2023-05-03", "2023-05-18"),
    ("over the past year", "2022-05-17", "2023-05-18"),
    # dates
    ("on 7 May", "2023-05-07", "2023-05-08"),
    ("on May 7th", "2023-05-07", "2023-05-08"),
    ("It was the 7th of August", "2022-08-07", "2022-08-08"),
    ("It will be on the 7th of August", "2023-08-07", "2023-08-08"),
    ("May 7, 2022", "2022-05-07", "2022-05-08"),
    ("Friday, 12 May 2023", "2023-05-12", "2023-05-13"),
    ("2023-05-07", "2023-05-07", "2023-05-08"),
    ("25/12/2022", "2022-12-25", "2022-12-26"),
    ("12/25/2022", "2022-12-25", "2022-12-26"),
    ("07.05.2023", "2023-05-07", "2023-05-08"),
    # months, years, decades
    ("in May 2023", "2023-05-01", "2023-06-01"),
    ("I was there in August", "2022-08-01", "2022-09-01"),
    ("I will be there in August", "2023-08-01", "2023-09-01"),
    ("last May", "2022-05-01", "2022-06-01"),
    ("next May", "2024-05-01", "2024-06-01"),
    ("in 2021", "2021-01-01", "2022-01-01"),
    ("from 2015 to 2018", "2015-01-01", "2019-01-01"),
    ("in the 1990s", "1990-01-01", "2000-01-01"),
    ("in the 90s", "1990-01-01", "2000-01-01"),
    # open ends
    ("since 2019", "2019-01-01", None),
    ("since last June", "2022-06-01", None),
    ("after 2019", "2020-01-01", None),
    ("before 2019", None, "2019-01-01"),
    ("until 2020", None, "2021-01-01"),
    ("by Friday", None, "2023-05-20"),
]
NO_TIMES = [
    "",
    "I may go, and march on.",
    "May is my sister, and June my aunt.",
    "05/07/2023",  # day or month first?
    "in 2000 steps",
    "it costs $2021",
    "version 2.0.2021",
    "every Friday",
    "on Fridays",
    "Friday the 12th",
    "February 30, 2022",
    "2023-13-45",
    "the second sun sat down",
    "room 2021",
]


def day(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


@pytest.mark.parametrize(("text", "begins", "ends"), CASES, ids=[case[0] for case in CASES])
def test_the_width_of_a_range_follows_its_phrase(
    text: str, begins: str | None, ends: str | None
) -> None:
    assert [mention.range for mention in find_times(text, NOW)] == [
        TimeRange(day(begins), day(ends))
    ]


@pytest.mark.parametrize("text", NO_TIMES)
def test_ambiguous_or_other_phrases_give_no_time(text: str) -> None:
    assert find_times(text, NOW) == []


def test_a_mention_has_its_position_in_the_text() -> None:
    text = "I moved in May 2021, and yesterday I came back."
    found = find_times(text, NOW)
    assert [mention.text for mention in found] == ["in May 2021", "yesterday"]
    assert all(text[mention.start : mention.end] == mention.text for mention in found)


def test_days_begin_in_the_speakers_zone() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    said_at = datetime(2023, 5, 18, 1, 0, tzinfo=tokyo)  # still the 17th in UTC
    (found,) = find_times("today", said_at)
    assert found.range.begins == datetime(2023, 5, 18, tzinfo=tokyo)


def test_a_moment_without_a_zone_is_utc() -> None:
    (found,) = find_times("today", NOW.replace(tzinfo=None))
    assert found.range == TimeRange(day("2023-05-17"), day("2023-05-18"))


def test_a_range_covers_its_beginning_and_not_its_end() -> None:
    (found,) = find_times("in 2021", NOW)
    assert found.range.covers(datetime(2021, 1, 1, tzinfo=UTC))
    assert not found.range.covers(datetime(2022, 1, 1, tzinfo=UTC))


PIECES = st.sampled_from(
    [case[0] for case in CASES]
    + NO_TIMES
    + ["since ", "from ", " to ", "9", "99999 years ago", "\n"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.text(), st.lists(PIECES, max_size=6).map(" ".join)),
    st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31)),
)
def test_any_text_at_any_moment_is_read_without_an_error(text: str, said_at: datetime) -> None:
    found = find_times(text, said_at)
    assert found == find_times(text, said_at)
    for one, other in itertools.pairwise(found):
        assert one.end <= other.start
    for mention in found:
        bounds = mention.range
        assert bounds.begins is not None or bounds.ends is not None
        if bounds.begins and bounds.ends:
            assert bounds.begins < bounds.ends


def test_text_without_a_time_is_checked_in_microseconds() -> None:
    text = "I like green apples and my dog likes bones. " * 20
    begun = time.process_time()
    for _ in range(100):
        find_times(text, NOW)
    assert (time.process_time() - begun) / 100 < 0.001
