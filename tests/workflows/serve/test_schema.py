"""schemathesis asks every address of the OpenAPI document with right and wrong values, and finds nothing."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from helpers.children.serving import Running
from hypothesis import HealthCheck, given, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import positive_data_acceptance

ORDINARY = settings(
    max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
# That one of `q`, `like` and `question` is given, and which words and columns a project knows.
NOT_SAID_BY_A_DOCUMENT = [positive_data_acceptance]


def ask(operation: Any, project: str | None) -> None:
    """Ask one address with many values; of this project where one is named, and of any text otherwise."""

    @ORDINARY
    @given(case=operation.as_strategy())
    def asked(case: Case) -> None:
        if project is not None and "project" in case.path_parameters:
            case.path_parameters["project"] = project
        case.call_and_validate(excluded_checks=NOT_SAID_BY_A_DOCUMENT)

    asked()


@pytest.mark.slow
def test_the_document_and_the_server_agree(answering: Running) -> None:
    document = schemathesis.openapi.from_url(f"{answering.url}/api/v1/openapi.json")
    operations = [one.ok() for one in document.get_all_operations()]
    assert len(operations) == 15
    for operation in operations:
        ask(operation, None)
        ask(operation, "project")
