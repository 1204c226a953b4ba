"""Who may do what: every route and the socket, with no key, a bad one, another's, a revoked one, the right one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from service.api.middleware.access import is_loopback
from service.keys import AccessKeys
from service.redis_client import connect
from service.redis_keys import Keys
from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, running_api
from tests.service.live_client import live
from tests.service.videos import write_video

T = TypeVar("T")


def with_keys(settings: Settings, act: Callable[[AccessKeys], Awaitable[T]]) -> T:
    async def run() -> T:
        redis = connect(settings.redis_url or "")
        try:
            return await act(AccessKeys(redis, Keys(settings.redis_prefix)))
        finally:
            await redis.aclose()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def settings(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(
        redis_url=redis_url,
        redis_prefix="test-api-access:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
        rate_limit_burst=10_000,
    )


@pytest.fixture(scope="module")
def api_keys(settings: Settings) -> dict[str, str]:
    keys = {}
    for name in ("owner", "other", "revoked"):
        keys[name], record = with_keys(settings, lambda access, name=name: access.create(name))  # type: ignore[misc]
        if name == "revoked":
            with_keys(settings, lambda access, record=record: access.revoke(record.key_id))  # type: ignore[misc]
    return {**keys, "unknown": "A" * 43, "garbled": "not a key at all"}


@pytest.fixture(scope="module")
def api(settings: Settings, api_keys: dict[str, str]) -> Iterator[ApiServer]:
    with running_api(settings) as server:
        yield server


@pytest.fixture(scope="module")
def session_id(api: ApiServer, api_keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    clip = write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 3)
    made = api.upload(clip, [mask_png()], headers=bearer(api_keys["owner"]))
    assert made.status_code == 202, made.text
    return str(made.json()["session_id"])


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def address_of(path: str, session_id: str) -> str:
    """A route's path with the session and 1 for every other parameter."""
    return re.sub(r"\{\w+\}", "1", path.replace("{session_id}", session_id))


def protected_routes(api: ApiServer) -> list[tuple[str, str]]:
    """Every operation of the OpenAPI document but the public ones."""
    paths = api.http.get("/openapi.json").json()["paths"]
    routes = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [route for route in routes if route[1] not in ("/healthz", "/readyz", "/")]


def test_every_route_refuses_without_a_valid_key(api: ApiServer, api_keys: dict[str, str], session_id: str) -> None:
    routes = protected_routes(api)
    assert ("POST", "/sessions") in routes and len(routes) >= 8
    for method, path in routes:
        address = address_of(path, session_id)
        for name in (None, "unknown", "garbled", "revoked"):
            answer = api.http.request(method, address, headers=bearer(api_keys.get(name or "")))
            assert answer.status_code == 401, (method, path, name)
            assert answer.json()["type"] == "urn:maskstream:problem:unauthorized"
            assert answer.headers["www-authenticate"].startswith("Bearer")


def test_another_owners_session_is_as_if_it_were_not(api: ApiServer, api_keys: dict[str, str], session_id: str) -> None:
    other = bearer(api_keys["other"])
    for method, path in protected_routes(api):
        if "{session_id}" in path:
            address = address_of(path, session_id)
            body: dict[str, Any] = {"files": {"mask": ("m.png", mask_png())}} if path.endswith("references") else {}
            answer = api.http.request(method, address, headers=other, **body)
            assert answer.status_code == 404, (method, path, answer.text)
    assert api.http.get("/sessions", headers=other).json()["sessions"] == []
    mine = api.http.get("/sessions", headers=bearer(api_keys["owner"])).json()["sessions"]
    assert [item["session_id"] for item in mine] == [session_id]


def close_code(api: ApiServer, session_id: str, **options: Any) -> int:
    with api.socket(session_id, **options) as socket:
        try:
            first = json.loads(socket.recv(timeout=10))
            if first["type"] == "progress":
                return 0
            socket.recv(timeout=10)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006
    return -1


def test_socket_matrix(api: ApiServer, api_keys: dict[str, str], session_id: str) -> None:
    for name, code in (("unknown", 4401), ("revoked", 4401), ("other", 4404), ("owner", 0)):
        key = api_keys[name]
        assert close_code(api, session_id, additional_headers=bearer(key)) == code, name
        offered = [Subprotocol("bearer"), Subprotocol(key)]
        assert close_code(api, session_id, subprotocols=offered) == code, name
    assert close_code(api, session_id) == 4401


def live_close_code(api: ApiServer, session_id: str, **options: Any) -> int:
    """Of a live connection that wants to go on with the session."""
    with live(api, **options) as client:
        try:
            client.say(type="open", session_id=session_id)
        except ConnectionClosed:
            pass
        return client.refusal()[1]


def test_live_matrix(api: ApiServer, api_keys: dict[str, str], session_id: str) -> None:
    """4400 is the owner's: the session is there, but it is an upload."""
    for name, code in (("unknown", 4401), ("revoked", 4401), ("other", 4404), ("owner", 4400)):
        assert live_close_code(api, session_id, additional_headers=bearer(api_keys[name])) == code, name
    assert live_close_code(api, session_id) == 4401


def test_only_the_word_bearer_is_echoed(api: ApiServer, api_keys: dict[str, str], session_id: str) -> None:
    offered = [Subprotocol("bearer"), Subprotocol(api_keys["owner"])]
    with api.socket(session_id, subprotocols=offered) as socket:
        assert socket.subprotocol == "bearer"


def test_cookie_reads_but_never_writes(api: ApiServer, api_keys: dict[str, str], session_id: str) -> None:
    as_browser = {**bearer(api_keys["owner"]), "Sec-Fetch-Site": "same-origin"}
    cookie = api.http.get("/engines", headers=as_browser).headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    api.http.cookies.clear()
    by_cookie = {"Cookie": cookie.split(";")[0]}
    assert api.http.get(f"/sessions/{session_id}", headers=by_cookie).status_code == 200
    assert api.http.post(f"/sessions/{session_id}/cancel", headers=by_cookie).status_code == 401
    assert api.http.delete(f"/sessions/{session_id}", headers=by_cookie).status_code == 401
    assert "set-cookie" not in api.http.get("/engines", headers=bearer(api_keys["owner"])).headers


def test_public_paths_need_no_key(api: ApiServer) -> None:
    for path in ("/healthz", "/docs", "/openapi.json"):
        assert api.http.get(path).status_code == 200
    page = api.http.get("/docs")
    assert "//" not in page.text, "it needs nothing from elsewhere"
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert api.http.get("/readyz").status_code == 503
    assert api.http.get("/metrics").status_code == 401


def test_without_keys_only_this_machines_own_pages_may_call(redis_url: str, tmp_path: Path, keys: Keys) -> None:
    settings = Settings(redis_url=redis_url, redis_prefix=keys.prefix, data_dir=tmp_path, port=0, min_free_bytes=0)
    with running_api(settings) as api:
        own = f"127.0.0.1:{api.port}"
        assert api.http.get("/sessions").status_code == 200
        assert api.http.get("/sessions", headers={"Host": "evil.example"}).status_code == 403
        assert api.http.get("/sessions", headers={"Host": f"localhost:{api.port}"}).status_code == 200
        assert api.http.post("/sessions", headers={"Origin": "https://evil.example"}).status_code == 403
        assert api.http.post("/sessions", headers={"Origin": f"http://{own}"}).status_code == 415
        assert close_code(api, "0" * 26, origin="https://evil.example") == 4403
        assert close_code(api, "0" * 26, origin=f"http://{own}") == 4404
        assert live_close_code(api, "0" * 26, origin="https://evil.example") == 4403
        preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        assert "access-control-allow-origin" not in api.http.options("/sessions", headers=preflight).headers


def test_a_key_is_asked_for_where_others_can_reach_the_service(redis_url: str, tmp_path: Path, keys: Keys) -> None:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix=keys.prefix,
        data_dir=tmp_path,
        port=0,
        min_free_bytes=0,
        host="0.0.0.0",  # noqa: S104
    )
    with running_api(settings) as api:
        assert api.http.get("/sessions").status_code == 401


def test_rate_limit_says_when_to_come_back(redis_url: str, tmp_path: Path, keys: Keys) -> None:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix=keys.prefix,
        data_dir=tmp_path,
        port=0,
        min_free_bytes=0,
        rate_limit_burst=3,
        rate_limit_per_minute=6,
    )
    with running_api(settings) as api:
        answers = [api.http.get("/sessions") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert 1 <= int(answers[3].headers["retry-after"]) <= 10
        assert close_code(api, "0" * 26) == 1013
        assert api.http.get("/healthz").status_code == 200


def test_pictures_do_not_use_up_other_requests(redis_url: str, tmp_path: Path, keys: Keys) -> None:
    """A page that scrubs through stills, or shows a long list of thumbnails, can still do everything else."""
    settings = Settings(
        redis_url=redis_url,
        redis_prefix=keys.prefix,
        data_dir=tmp_path / "data",
        port=0,
        min_free_bytes=0,
        rate_limit_burst=4,
        rate_limit_per_minute=6,
        rate_limit_pictures_per_minute=12,
    )
    with running_api(settings) as api:
        session = api.upload(write_video(tmp_path / "clip.mp4", 3), [mask_png()]).json()["links"]["self"]
        paths = [f"{session}/frames/{index}.jpg" for index in range(3)] + [f"{session}/thumbnail.jpg"] * 2
        answers = [api.http.get(path) for path in paths]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429]
        assert 1 <= int(answers[4].headers["retry-after"]) <= 5
        assert "12 pictures a minute" in answers[4].json()["detail"]
        others = [api.http.get(session).status_code for _ in range(4)]
        assert others == [200, 200, 200, 429], "the upload and three more"


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("a.localhost", True)]
    + [("0.0.0.0", False), ("localhost.evil.example", False), ("10.0.0.1", False), ("", False)],  # noqa: S104
)
def test_loopback_names(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
