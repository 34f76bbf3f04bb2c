"""schemathesis asks every address of the OpenAPI document with right and wrong values, and finds nothing."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from helpers.children.serving import Running
from hypothesis import HealthCheck, settings

PROJECT = "project"


@pytest.fixture
def api_schema(answering: Running) -> Any:
    return schemathesis.openapi.from_url(f"{answering.url}/api/v1/openapi.json")


schema = schemathesis.pytest.from_fixture("api_schema")


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
def test_the_document_and_the_server_agree(case: Any) -> None:
    if case.path_parameters and "project" in case.path_parameters:
        case.path_parameters["project"] = PROJECT
    case.call_and_validate()
