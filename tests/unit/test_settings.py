"""Settings come from the environment once and stay as they are."""

from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from service.errors import MaskstreamError, TooManyRequests, problem
from service.settings import Settings, mistyped_variables


def test_environment_is_read_and_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKSTREAM_ENGINES", "fake, deaot-t")
    monkeypatch.setenv("MASKSTREAM_MAX_OBJECTS", "7")
    settings = Settings()
    assert settings.engines == ("fake", "deaot-t")
    assert settings.max_objects == 7
    with pytest.raises(ValidationError):
        settings.max_objects = 8


def test_a_child_process_gets_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(engines=("fake", "stm"), redis_url="redis://x", deterministic=True, api_key=SecretStr("k" * 43))
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_a_mistyped_variable_is_told_from_somebody_elses() -> None:
    of_kubernetes = ["MASKSTREAM_API_PORT", "MASKSTREAM_API_SERVICE_HOST", "MASKSTREAM_REDIS_PORT"]
    names = [
        "MASKSTREAM_SESION_TTL_S",
        "MASKSTREAM_ENGINE",
        "MASKSTREAM_PORT",
        "MASKSTREAM_URL",
        "HOME",
        *of_kubernetes,
    ]
    assert mistyped_variables(names) == [
        ("MASKSTREAM_ENGINE", "MASKSTREAM_ENGINES"),
        ("MASKSTREAM_SESION_TTL_S", "MASKSTREAM_SESSION_TTL_S"),
    ]


def test_every_setting_is_described() -> None:
    undescribed = [name for name, field in Settings.model_fields.items() if not field.description]
    assert undescribed == []


def test_problem_documents_carry_reason_and_remedy() -> None:
    document = problem(TooManyRequests("wait", retry_after_s=3, limit=5), request_id="r1")
    assert document == {
        "type": "urn:maskstream:problem:too-many-requests",
        "title": "Too many requests",
        "status": 429,
        "detail": "wait",
        "limit": 5,
        "retry_after_s": 3,
        "request_id": "r1",
    }
    assert issubclass(TooManyRequests, MaskstreamError)
