"""experiments/course-report.md: every claim in order, each with a verdict and with tests that exist."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "experiments" / "course-report.md").read_text()
CLAIMS = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]


def test_every_claim_is_there_in_order_and_in_the_table_of_verdicts():
    assert [claim.split("\n")[0] for claim in CLAIMS] == [f"S{i}" for i in range(1, 30)]
    table = PAGE.split("\n## ")[0]
    assert sorted(re.findall(r"\[S(\d+)\]\(#s(\d+)\)", table), key=lambda pair: int(pair[0])) == [
        (str(i), str(i)) for i in range(1, 30)
    ]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.split("\n")[0])
def test_what_a_claim_is_shown_by_exists(claim):
    """Files, and the tests in them by name."""
    shown_by = claim.split("Shown by: ")[1]
    assert "**" in claim.split("Shown by: ")[0]  # what the report says
    named = re.findall(r"`([\w/.-]+\.(?:py|yaml))(?:::(\w+))?`", shown_by)
    assert named
    for path, test in named:
        text = (REPOSITORY / path).read_text()
        assert not test or re.search(rf"^def {test}\(", text, re.MULTILINE), f"{path} has no {test}"


def test_links_between_claims_lead_somewhere():
    assert {int(number) for number in re.findall(r"\]\(#s(\d+)\)", PAGE)} == set(range(1, 30))


def test_the_studies_that_measured_a_claim_are_in_the_results():
    results = (REPOSITORY / "experiments" / "RESULTS.md").read_text()
    linked = set(re.findall(r"RESULTS\.md#([\w.-]+)\)", PAGE)) - {"what-we-found"}  # a heading
    assert len(linked) >= 10
    assert {name for name in linked if f'<a id="{name}"></a>' not in results} == set()
