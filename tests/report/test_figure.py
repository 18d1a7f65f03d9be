"""Figures as JSON that a script element can hold."""

import json
import math

from losslab.report.figure import Choice, Figure, Table, axes, categories, escape_tags, script_json


def test_nothing_in_the_json_can_end_its_script_element() -> None:
    text = script_json({"</script><script>": ["<!--", "&", "]]>"]})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"</script><script>": ["<!--", "&", "]]>"]}


def test_numbers_have_five_digits_and_nan_is_null() -> None:
    assert json.loads(script_json([1 / 3, math.nan, math.inf, 7, True])) == [0.33333, None, None, 7, True]


def test_the_same_figure_is_the_same_bytes() -> None:
    def figure() -> Figure:
        trace = {"x": [1, 2], "meta": {"b": "1", "a": "2"}}
        return Figure("f", "t", "c", [trace], {"yaxis": {}, "xaxis": {}}, Table([], []), [Choice("a", "A", ["1"])])

    assert figure().json() == figure().json()


def test_names_are_no_markup_for_plotly() -> None:
    assert escape_tags("<b>&amp;") == "&lt;b&gt;&amp;amp;"
    assert categories(["a", "x" * 30])["ticktext"] == ["a", "x" * 17 + "…"]


def test_panels_have_plotlys_axes() -> None:
    assert axes(0) == {"xaxis": "x", "yaxis": "y"}
    assert axes(2) == {"xaxis": "x3", "yaxis": "y3"}
