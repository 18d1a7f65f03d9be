"""The Markdown agrees with the page, and names are no markup in it."""

from losslab.report.markdown import escape


def test_names_are_no_markup() -> None:
    assert escape("<b>|`x`_*\n#") == "&lt;b&gt;\\|\\`x\\`\\_\\* \\#"
