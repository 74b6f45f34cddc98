"""How files are broken: bytes changed, cut, doubled or made up, and JSON with any value in any place."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: The same examples in every run, few enough that all readers take seconds together.
fuzz = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

#: JSON values, the usual suspects among them.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 2**64, 10**30, 1e300, "", "..", "../../x", "/etc/passwd", "a\0b", "***"])
    | st.integers()
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def broken(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes of a file with a few faults, or others altogether."""
    kind = draw(st.sampled_from(["change", "change", "cut", "double", "insert", "other"]))
    if kind == "other" or not data:
        return draw(st.binary(max_size=200))
    at = draw(st.integers(0, len(data) - 1))
    if kind == "cut":
        return data[:at]
    if kind == "double":
        return data[:at] + data[at:] + data[at:]
    if kind == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=20)) + data[at:]
    changed = bytearray(data)
    for place in [at, *draw(st.lists(st.integers(0, len(data) - 1), max_size=8))]:
        changed[place] = draw(st.integers(0, 255))
    return bytes(changed)


@st.composite
def broken_json(draw: st.DrawFn, value: Any) -> Any:
    """JSON values with one of them replaced, deleted or added."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places or draw(st.integers(0, 20)) == 0:
        return draw(json_values)
    container, key = draw(st.sampled_from(places))
    match draw(st.sampled_from(["replace", "replace", "replace", "delete", "add"])):
        case "replace":
            container[key] = draw(json_values)
        case "delete":
            del container[key]
        case "add" if isinstance(container, dict):
            container[draw(st.text(max_size=4))] = draw(json_values)
        case _:
            container.insert(key, draw(json_values))
    return value


def _places(value: Any) -> Any:
    """Every container in JSON values with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
