"""schemathesis asks every address of the OpenAPI document with right and wrong values, and finds nothing."""

from __future__ import annotations

import pytest
import schemathesis
from helpers.children.serving import Running
from hypothesis import HealthCheck, given, settings
from schemathesis import Case

EXAMPLES = 40


@pytest.mark.slow
def test_the_document_and_the_server_agree(answering: Running) -> None:
    document = schemathesis.openapi.from_url(f"{answering.url}/api/v1/openapi.json")
    operations = [one.ok() for one in document.get_all_operations()]
    assert len(operations) == 15
    for operation in operations:
        for named in ({}, {"project": "project"}):

            @settings(
                max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy())
            def check(case: Case, named: dict[str, str] = named) -> None:
                if named and "project" in case.path_parameters:
                    case.path_parameters.update(named)
                case.call_and_validate()

            check()
