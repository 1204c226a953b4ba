"""Schemathesis over the OpenAPI document, with and without a key: no 5xx, and every answer is as documented."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.keys import AccessKeys
from service.queue import JobQueue
from service.redis_client import connect
from service.redis_keys import Keys
from service.schemas import WorkerRecord
from service.settings import Settings
from tests.service.api_server import ApiServer, running_api
from tests.service.test_api_access import with_keys

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = hypothesis_settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def openapi_api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix="test-openapi:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
        rate_limit_burst=100_000,
    )
    asyncio.run(pretend_a_worker_lives(settings))
    with running_api(settings) as server:
        yield server


async def pretend_a_worker_lives(settings: Settings) -> None:
    """Without one /readyz answers 503, which is right, but which the checks take for a defect."""
    redis = connect(settings.redis_url or "")
    worker = WorkerRecord(
        id="w", stage="idle", sessions=0, engines=("fake",), capacity_bytes=1, free_bytes=1, device="cpu", at=0.0
    )
    await JobQueue(redis, Keys(settings.redis_prefix)).enter_stage(worker, [], 3600)
    await redis.aclose()


def fuzz(api: ApiServer, headers: dict[str, str]) -> list[str]:
    """Call every operation with generated input; returns the operations called."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{api.port}/openapi.json")
    called = []
    for result in schema.get_all_operations():
        operation: Any = result.ok()  # type: ignore[union-attr]
        called.append(operation.label)

        @EXAMPLES
        @given(case=operation.as_strategy())
        def call(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, headers=headers)

        call()
    return called


def test_every_operation_with_and_without_a_key(openapi_api: ApiServer) -> None:
    async def make(access: AccessKeys) -> str:
        return (await access.create("schemathesis"))[0]

    called = fuzz(openapi_api, {"Authorization": f"Bearer {with_keys(openapi_api.settings, make)}"})
    assert "POST /sessions" in called and len(called) >= 12
    assert fuzz(openapi_api, {}) == called
    assert openapi_api.http.get("/healthz").status_code == 200


def test_generated_clients_get_short_names_and_a_key(openapi_api: ApiServer) -> None:
    document = openapi_api.http.get("/openapi.json").json()
    operations = [each for path in document["paths"].values() for each in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert "create_session" in names and len(set(names)) == len(names)
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    keyless = sorted(operation["operationId"] for operation in operations if "security" not in operation)
    assert keyless == ["healthz", "readyz"]
