"""A test that asks for one of loss_examples.GROUPS runs once for each loss in it."""

import pytest
from loss_examples import BY_DESIGN, GROUPS, Example, examples


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "takes(*policies): only for losses that have these policies")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    policies = [policy for marker in metafunc.definition.iter_markers("takes") for policy in marker.args]
    for name in GROUPS.keys() & set(metafunc.fixturenames):
        metafunc.parametrize(
            name,
            [
                pytest.param(example, id=str(example), marks=by_design(metafunc.function.__name__, example))
                for example in examples(name, metafunc.config.user_losses)  # type: ignore[attr-defined]
                if example.takes(*policies)
            ],
        )


def by_design(test: str, example: Example) -> list[pytest.MarkDecorator]:
    return [
        pytest.mark.xfail(strict=True, reason=reason)
        for beginning, reason in BY_DESIGN.get(test, {}).items()
        if example.is_ours and str(example).startswith(beginning)
    ]
