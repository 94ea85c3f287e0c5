"""The parsers, against the naive ones of the reference, and against those of werkzeug."""

import ast
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import combinations
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug import http as werkzeug
from werkzeug.datastructures import Accept, MIMEAccept

from tests import reference
from trio_amped.semantics.dates import format_date, parse_date
from trio_amped.semantics.negotiation import media_weight, preferred_codings
from trio_amped.semantics.preconditions import range_applies
from trio_amped.semantics.ranges import parse_range
from trio_amped.semantics.validators import ANY, parse_etag_list

ROOT: Final = Path(__file__).parents[2]


def soup(*pieces: str) -> st.SearchStrategy[str]:
    """Values that are often well-formed, and else look like it."""
    return st.lists(st.sampled_from(pieces), max_size=12).map("".join)


# ------------------------------------------------------------------ the reference is another's


def test_the_reference_imports_nothing_of_ours() -> None:
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(reference.__file__).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "what is imported must be seen"
            found.add(node.module or "")
    assert found <= sys.stdlib_module_names | {"collections.abc"}
    check = "import sys, tests.reference; sys.exit(any(n.startswith('trio') for n in sys.modules))"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


# ------------------------------------------------------------------ Range

SIZES: Final = st.sampled_from([10, 0, 1, 2, 40, 150, 150])
POSITIONS: Final = st.integers(0, 11) | st.sampled_from([39, 40, 149, 150, 10**30])
SPECS: Final = st.one_of(
    st.builds("{}-{}".format, POSITIONS, POSITIONS),
    st.tuples(POSITIONS, st.integers(0, 3)).map(lambda at: f"{at[0]}-{sum(at)}"),
    st.builds("{}-".format, POSITIONS),
    st.builds("-{}".format, POSITIONS),
)
COMMAS: Final = st.sampled_from([",", ", ", "\t,", " , ", ",,", ", ,"])


def lists_of(members: st.SearchStrategy[str], least: int = 0) -> st.SearchStrategy[str]:
    return st.builds(str.join, COMMAS, st.lists(members, min_size=least, max_size=8))


RANGES: Final = st.one_of(
    st.builds(str.__add__, st.sampled_from(["bytes=", "Bytes=", "lines="]), lists_of(SPECS)),
    lists_of(st.integers(0, 9).map("{0}-{0}".format), 3).map("bytes={}".format),
    soup("bytes", "=", "bytes=", "-", ",", " ", "\t", "0", "5", "12", "1-", "-3", "\xb2", "+", "_"),
    st.sampled_from([23, 24, 25]).map(
        lambda n: "bytes=" + ",".join(f"{2 * at}-{2 * at}" for at in range(n))
    ),
    st.sampled_from([22, 23, 24]).map(lambda n: "bytes=0-0" + "," * n),
    st.sampled_from([1017, 1018]).map(lambda n: "bytes=0-" + "9" * n),
)


@given(RANGES, SIZES)
def test_ranges(value: str, size: int) -> None:
    runs = reference.runs_of(value, size)
    expected = None if runs is None else tuple((run[0], len(run)) for run in runs)
    assert parse_range(value.encode("latin-1"), size) == expected


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("bytes=5-6,0-1", id="not in ascending order"),
        pytest.param("bytes=0-3,2-5", id="overlapping"),
        pytest.param("bytes=0-,-1", id="after one without an end"),
        pytest.param("bytes=-1,0-1", id="after a suffix"),
        pytest.param("bytes=-0", id="an empty suffix, which is valid and cannot be satisfied"),
        pytest.param("bytes=0-1,,4-5", id="an empty member"),
    ],
)
def test_ranges_that_werkzeug_refuses(value: str) -> None:
    """So the next property has none of them."""
    assert werkzeug.parse_range_header(value) is None
    assert parse_range(value.encode(), 10) is not None


@given(
    st.lists(st.integers(0, 12), max_size=8, unique=True).map(sorted),
    st.sampled_from(["", "13-", "-1", "-3", "-99", "13-99"]),
    st.sampled_from([",", ", ", " ,\t"]),
    st.sampled_from([10, 1, 2, 40]),
)
def test_ranges_as_werkzeug_has_them(edges: list[int], last: str, comma: str, size: int) -> None:
    pairs = zip(edges[::2], edges[1::2], strict=False)
    specs = [*(f"{first}-{stop - 1}" for first, stop in pairs), *filter(None, [last])]
    value = "bytes=" + comma.join(specs)
    theirs, ours = werkzeug.parse_range_header(value), parse_range(value.encode(), size)
    if not specs:
        assert (theirs, ours) == (None, None)
        return
    assert theirs is not None
    assert ours is not None
    asked = {at for first, stop in theirs.ranges for at in range(size)[first:stop]}
    assert asked == {at for offset, length in ours for at in range(offset, offset + length)}


# ------------------------------------------------------------------ entity tags

TAGS: Final = st.sampled_from(['"a"', 'W/"a"', '"b,c"', '"\xff !"', '"!\xff"', '""', 'W/""', "W/"])
TAG_LISTS: Final = st.one_of(
    lists_of(TAGS),
    st.sampled_from(["*", " *\t", "*,", '*, "a"', ""]),
    soup('"a"', '"', "W/", "w/", ",", ", ", " ", "\t", "*", "a", "\x7f", "\xff", "\\", '\\"'),
)


@given(TAG_LISTS)
def test_entity_tags(value: str) -> None:
    found = parse_etag_list(value.encode("latin-1"))
    if value.strip(" \t") == "*":
        assert found == ANY
        return
    expected = reference.entity_tags(value)
    assert found == (
        None if expected is None else tuple(each.encode("latin-1") for each in expected)
    )


@pytest.mark.parametrize(
    ("value", "theirs"),
    [
        pytest.param('w/"a"', "a", id="W/ has one case (8.8.3)"),
        pytest.param("a", "a", id="without quotes"),
        pytest.param('"b" "c", "a"', "a", id="what is sound in a malformed list"),
        pytest.param('*, "a"', "a", id="any, in a list"),
    ],
)
def test_malformed_entity_tags_that_werkzeug_accepts(value: str, theirs: str) -> None:
    """So the next property has none of them; nor an empty tag, which is None there."""
    assert werkzeug.parse_etags(value).contains_weak(theirs)
    assert parse_etag_list(value.encode()) is None
    assert not werkzeug.parse_etags('""').contains_weak("")


@given(lists_of(st.sampled_from(['"a"', 'W/"a"', 'W/"b"', '"b,c"', '"!\xff"'])) | st.just("*"))
def test_entity_tags_as_werkzeug_has_them(value: str) -> None:
    theirs = werkzeug.parse_etags(value)
    tags = parse_etag_list(value.encode("latin-1"))
    assert theirs.star_tag == (tags == ANY)
    for tag in ['"a"', '"b"', '"b,c"', '"!\xff"']:
        strong = tag.encode("latin-1")
        assert tags is not None
        if tags != ANY:
            assert theirs.is_strong(tag.strip('"')) == (strong in tags)
            assert theirs.is_weak(tag.strip('"')) == (b"W/" + strong in tags)


# ------------------------------------------------------------------ dates

FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
NOWS: Final = st.sampled_from(
    [
        datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
        datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2050, 1, 1, tzinfo=UTC),
        datetime(1999, 3, 1, 12, tzinfo=UTC),
    ]
)


def seconds_of(when: datetime) -> int:
    return int((when - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())


@st.composite
def dates(draw: st.DrawFn, now: datetime) -> str:
    """Of any time; about fifty years from now; on a leap second; with one letter wrong."""
    seconds = draw(
        st.integers(seconds_of(FIRST), seconds_of(LAST))
        | st.integers(-2, 2).map(lambda by: seconds_of(now.replace(year=now.year + 50)) + by)
        | st.integers(-50, 49).map(lambda by: seconds_of(now.replace(year=now.year + by)))
    )
    text = draw(st.sampled_from(reference.date_texts(seconds)))
    at = draw(st.integers(0, len(text)))
    return draw(
        st.sampled_from(
            [
                *[text] * 4,
                text.replace(f"{now:%H:%M:%S}", "23:59:60"),
                text.replace(f"{now:%H:%M:%S}", "24:00:00"),
                text.replace(f"{now:%d}", "29").replace("Nov", "Feb"),
                text.replace("  ", " 0"),
                text.replace(text[:3], "Wed"),
                text.swapcase(),
                text[:at] + text[at + 1 :],
                text[:at]
                + draw(st.sampled_from([" ", "0", "1", "9", "-", "\t", "\xb2"]))
                + text[at:],
                text[:at] + draw(st.sampled_from([" ", "0", "1", "9", "6"])) + text[at + 1 :],
            ]
        )
    )


@given(st.data(), NOWS, st.sampled_from([0.0, 0.75]))
def test_dates(data: st.DataObject, now: datetime, fraction: float) -> None:
    value, clock = data.draw(dates(now)), seconds_of(now) + fraction
    assert parse_date(value.encode("latin-1"), clock) == reference.http_date(value, clock)


@given(st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None), timezones=st.just(UTC)))
def test_dates_that_are_sent(when: datetime) -> None:
    seconds = seconds_of(when - timedelta(microseconds=when.microsecond))
    assert format_date(seconds).decode() == reference.date_texts(seconds)[0]


@pytest.mark.parametrize(
    ("value", "year"),
    [
        pytest.param("Sun, 06 Nov 0050 08:49:37 GMT", 2050, id="a year below 100"),
        pytest.param("Thursday, 06-Nov-69 08:49:37 GMT", 1969, id="two digits: 1969 to 2068"),
        pytest.param("Sun, 06 Nov 1994 23:59:60 GMT", None, id="a leap second"),
        pytest.param("sun, 6 nov 1994 08:49 +0100", 1994, id="what is no HTTP-date"),
    ],
)
def test_dates_that_werkzeug_has_otherwise(value: str, year: int | None) -> None:
    """So the next property has none of them."""
    theirs = werkzeug.parse_date(value)
    assert (theirs and theirs.year) == year
    ours = parse_date(value.encode(), seconds_of(datetime(2023, 11, 14, tzinfo=UTC)))
    assert ours != (theirs and seconds_of(theirs))


@given(
    st.integers(seconds_of(datetime(100, 1, 1, tzinfo=UTC)), seconds_of(LAST)),
    st.integers(seconds_of(datetime(1974, 1, 1, tzinfo=UTC)), 3_092_601_600 - 1),  # to 2067
)
def test_dates_as_werkzeug_has_them(any_time: int, of_two_digits: int) -> None:
    fixdate, _, asctime = reference.date_texts(any_time)
    rfc850 = reference.date_texts(of_two_digits)[1]
    now = seconds_of(datetime(2023, 11, 14, tzinfo=UTC))
    for text, seconds in ((fixdate, any_time), (asctime, any_time), (rfc850, of_two_digits)):
        theirs = werkzeug.parse_date(text)
        assert theirs is not None
        assert parse_date(text.encode(), now) == seconds_of(theirs) == seconds


# ------------------------------------------------------------------ If-Range

AGES: Final = st.sampled_from([2000, 1999, 2001, 2500, 3000, 1000, 0, -500, 10**8])  # ms


@given(AGES, st.sampled_from([0.0, 0.25]), st.data())
def test_if_range(age: int, fraction: float, data: st.DataObject) -> None:
    now = 1_700_000_000 + fraction
    form = reference.Form(b"content", int(now * 1000 - age) * 10**6)
    tag, modified = form.etag(now), form.last_modified(now)
    opaque = tag.removeprefix("W/")
    tags = [opaque, f"W/{opaque}", opaque[1:], f"{opaque}, {opaque}", '"x"', ""]
    dates = [text for at in (-1, 0, 0, 1) for text in reference.date_texts(modified + at)]
    value = data.draw(st.sampled_from([*tags, *dates]))
    found = range_applies(value.encode(), tag.encode(), modified, now)
    assert found == reference.still_is(value, form, now)


# ------------------------------------------------------------------ Accept-Encoding, Accept

OFFERED: Final = (b"br", b"zstd", b"gzip")
SOUND_WEIGHTS: Final = st.sampled_from(
    ["", "", ";q=0", ";q=0.5", "; Q=0.001", " ;\tq=1", ";q=1.000"]
)
WEIGHTS: Final = SOUND_WEIGHTS | st.sampled_from([";q=0.", ";q=1."])
MALFORMED_WEIGHTS: Final = st.sampled_from([";q=2", ";q=1.001", ";q=.5", ";q=0.1234", ";q= 1"])
CODING_NAMES: Final = st.sampled_from(
    ["br", "zstd", "gzip", "identity", "*", "x-gzip", "GZIP", "deflate", "x gzip", ""]
)
CODINGS: Final = lists_of(
    st.builds(str.__add__, CODING_NAMES, WEIGHTS | WEIGHTS | MALFORMED_WEIGHTS)
)


def choices(preferred: Sequence[bytes]) -> list[str]:
    """What is sent for each set of files that there may be."""
    return [
        next((coding.decode() for coding in preferred if coding in available), "identity")
        for count in range(len(OFFERED) + 1)
        for available in combinations(OFFERED, count)
    ]


@given(CODINGS | soup("br", "gzip", "*", ";", "q", "=", "q=", "0", "1", ".", ",", " ", "\t"))
def test_codings(value: str) -> None:
    assert choices(preferred_codings(value.encode(), OFFERED)) == [
        reference.choose_coding(value, [*(each.decode() for each in available), "identity"])
        for count in range(len(OFFERED) + 1)
        for available in combinations(OFFERED, count)
    ]


def test_no_field_is_no_coding() -> None:
    assert preferred_codings(None, OFFERED) == []
    assert reference.choose_coding(None, ["br", "identity"]) == "identity"


def once_each(names: Sequence[str]) -> st.SearchStrategy[str]:
    """A list of some of these, each with a weight."""
    chosen = st.lists(st.sampled_from(names), unique=True, min_size=1)
    weights = st.lists(SOUND_WEIGHTS, min_size=len(names), max_size=len(names))
    return st.builds(
        lambda comma, found, q: comma.join(map(str.__add__, found, q)), COMMAS, chosen, weights
    )


@pytest.mark.parametrize(
    ("value", "theirs", "ours"),
    [
        pytest.param("x-gzip", 0, True, id="the other name of gzip (8.4.1.3)"),
        pytest.param("gzip;q=0, gzip", 1, False, id="twice: there the greater weight counts"),
        pytest.param("gzip;q=1., *;q=0", 0, True, id="a weight may end in its point (12.4.2)"),
        pytest.param("gzip;q=0.1234", 0.1234, False, id="and has three digits"),
        pytest.param("gzip;q", 1, False, id="a parameter without a value"),
    ],
)
def test_codings_that_werkzeug_has_otherwise(value: str, theirs: float, ours: bool) -> None:
    """So the next property has none of them."""
    assert werkzeug.parse_accept_header(value, Accept).quality("gzip") == theirs
    assert preferred_codings(value.encode(), [b"gzip"]) == [b"gzip"] * ours


@given(once_each(["br", "zstd", "Gzip", "identity", "*", "deflate"]))
def test_codings_as_werkzeug_has_them(value: str) -> None:
    theirs = werkzeug.parse_accept_header(value, Accept)
    for coding in OFFERED:
        weight = theirs.quality(coding.decode())
        is_wanted = weight > 0 and weight >= theirs.quality("identity")
        assert preferred_codings(value.encode(), [coding]) == [coding] * is_wanted


# Not drawn, as it is known to differ from RFC 9110 5.6.6: a parameter without a value, after the
# weight, is taken for one (RFC 7231 5.3.2).
TYPES: Final = ["text/html", "text/*", "*/*", "application/json", "TEXT/Html", "application/*"]
RANGES_OF_TYPES: Final = st.sampled_from([*TYPES, *TYPES, "text", "*", ""])
PARAMETERS: Final = st.sampled_from(
    [
        *(
            "",
            "",
            "",
            "",
            ";",
            ";level=1",
            ' ; a="b,c;q=0"',
            '\t;a="\\",text/html,"',
            ";a=",
            ';a="',
        ),
        *(";a==", "/x", ';a="b"c', ';a="\\"', ";a b=c", " x", ";charset=a", ' ; Charset="a"'),
    ]
)
ACCEPTS: Final = lists_of(
    st.tuples(
        RANGES_OF_TYPES,
        PARAMETERS | st.sampled_from(["", ";q", ";level"]),
        WEIGHTS | MALFORMED_WEIGHTS,
        PARAMETERS,
    ).map("".join)
)
ASKED: Final = st.sampled_from(["text/html", "application/json", "image/png"])


@given(ACCEPTS | st.none(), ASKED)
def test_media_types(accept: str | None, media_type: str) -> None:
    found = media_weight(None if accept is None else accept.encode(), media_type.encode())
    assert found == float(reference.media_weight(accept, media_type))


@pytest.mark.parametrize(
    ("value", "theirs", "ours"),
    [
        pytest.param("text/html;charset=utf-8", 0, 1, id="a charset is a parameter like others"),
        pytest.param("text/*;level=1", 1, 0, id="all of text/* have whatever parameters it has"),
    ],
)
def test_media_types_that_werkzeug_has_otherwise(value: str, theirs: float, ours: float) -> None:
    """So the next property has none of them."""
    assert werkzeug.parse_accept_header(value, MIMEAccept).quality("text/html") == theirs
    assert media_weight(value.encode(), b"text/html") == ours


@given(
    once_each(["text/html", "text/html;a=b", "text/*", "*/*", "Application/json", "image/png;a=b"]),
    ASKED,
)
def test_media_types_as_werkzeug_has_them(accept: str, media_type: str) -> None:
    theirs = werkzeug.parse_accept_header(accept, MIMEAccept)
    assert media_weight(accept.encode(), media_type.encode()) == theirs.quality(media_type)
