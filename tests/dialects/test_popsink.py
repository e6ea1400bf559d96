"""The guide's requests about people, environments and teams, one after the other, over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer

from headrace.control.access import OPERATOR
from headrace.control.platform import Platform
from headrace.control.token import hash as hash_of
from headrace.control.token import random_text
from tests.waiting import HANGS

WORD = "MySecurePassword123!"
NOBODY = "32d4b09d-4527-40d5-923b-e166d85cb459"


class Person:
    """Somebody with a client of their own; `id` is theirs."""

    def __init__(self, http: httpx.Client, email: str):
        self.http, self.email = http, email
        made = http.post("/api/auth/register", json={"email": email, "password": WORD, "is_active": True})
        assert made.status_code == 201, made.text
        self.id = made.json()["id"]
        self.login()

    def login(self) -> None:
        form = {"username": self.email, "password": WORD}
        answer = self.http.post("/api/auth/jwt/login", data=form)
        assert answer.status_code == 200, answer.text
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def __call__(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.http.request(method, f"/api{path}", json=body)


@pytest.fixture
def join(address: str) -> Iterator[Callable[[str], Person]]:
    opened: list[httpx.Client] = []

    def person(email: str) -> Person:
        opened.append(httpx.Client(base_url=address, timeout=HANGS))
        return Person(opened[-1], email)

    yield person
    for each in opened:
        each.close()


@pytest.fixture
def john(join: Callable[[str], Person]) -> Person:
    return join("john.doe@company.com")


@pytest.fixture
def root(join: Callable[[str], Person], platform: Platform) -> Person:
    person = join("root@company.local")
    platform.users.update(OPERATOR, person.id, {"admin": True})
    return person


def detail(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


def test_the_quick_start_of_the_guide(address: str, join: Callable[[str], Person]) -> None:
    bare = httpx.Client(base_url=address)
    asked = {
        "email": "john.doe@company.com", "password": WORD, "is_active": True, "is_superuser": True,
        "is_verified": False,
    }  # fmt: skip
    made = bare.post("/api/auth/register", json=asked)
    assert made.status_code == 201
    user = made.json()
    assert user == {
        "id": user["id"], "email": "john.doe@company.com", "is_active": True, "is_superuser": False,
        "is_verified": False, "active_env_id": None,
    }  # fmt: skip
    form = {"username": "john.doe@company.com", "password": WORD}
    entry = bare.post("/api/auth/jwt/login", data=form).json()
    assert list(entry) == ["access_token", "token_type"] and entry["token_type"] == "bearer"
    bare.headers["Authorization"] = f"Bearer {entry['access_token']}"
    env_body = {
        "name": "production-environment", "description": "Production data processing environment",
        "use_retention": True,
    }  # fmt: skip
    answer = bare.post("/api/envs/", json=env_body)
    assert answer.status_code == 201, answer.text
    env = answer.json()
    assert env == env_body | {"id": env["id"], "retention_configuration": None}
    assert bare.get("/api/users/me").json()["active_env_id"] == env["id"]
    body = {"name": "Data Engineering Team", "description": "Team responsible for ETL pipelines"}
    team = bare.post("/api/teams/", json=body).json()
    assert team == body | {"id": team["id"], "env_id": env["id"]}
    jane = join("jane.smith@company.com")
    bulk = bare.post(f"/api/teams/{team['id']}/members/bulk", json={"members": [jane.id]})
    assert (bulk.status_code, bulk.content) == (204, b"")
    members = bare.get(f"/api/teams/{team['id']}/members").json()
    assert [(m["id"], m["email"], m["role"]) for m in members] == [
        (user["id"], "john.doe@company.com", "owner"),
        (jane.id, "jane.smith@company.com", "member"),
    ]
    assert jane("GET", "/users/me").json()["active_env_id"] == env["id"]
    assert bare.post("/api/auth/jwt/logout").status_code == 204
    assert detail(bare.get("/api/users/me"), 401) == "Unauthorized"
    bare.close()


def test_who_has_no_token_learns_nothing_else(address: str) -> None:
    for method, path in (("GET", "/envs"), ("GET", "/nowhere"), ("POST", "/teams/7/members/bulk")):
        answer = httpx.request(method, f"{address}/api{path}", content=b"{")
        assert detail(answer, 401) == "Unauthorized"
        assert "www-authenticate" not in answer.headers
    assert httpx.get(f"{address}/api/openapi.json").json()["info"]["title"] == "Popsink API"
    assert "swagger" in httpx.get(f"{address}/api/docs").text


def test_the_codes_of_registration_and_login(address: str, john: Person) -> None:
    def post(path: str, body: Any) -> httpx.Response:
        return httpx.post(f"{address}/api/auth{path}", json=body)

    taken = post("/register", {"email": "John.Doe@company.com", "password": WORD})
    assert detail(taken, 400) == "REGISTER_USER_ALREADY_EXISTS"
    weak = detail(post("/register", {"email": "a@b.co", "password": "short"}), 400)
    assert weak["code"] == "REGISTER_INVALID_PASSWORD" and "short" not in weak["reason"]
    assert detail(post("/register", {"email": "nobody", "password": WORD}), 422)[0]["loc"] == [
        "body",
        "email",
    ]
    assert detail(post("/register", {"email": "a@b.co"}), 422) == [
        {"loc": ["body", "password"], "msg": "field required", "type": "value_error.missing"}
    ]
    broken = httpx.post(f"{address}/api/auth/register", content=b'{"email": ')
    assert detail(broken, 422)[0]["type"] == "json_invalid"
    for form in ({"username": john.email, "password": "wrong"}, {"username": "no@b.co", "password": WORD}):
        answer = httpx.post(f"{address}/api/auth/jwt/login", data=form)
        assert detail(answer, 400) == "LOGIN_BAD_CREDENTIALS"
    assert post("/jwt/login", {"username": john.email, "password": WORD}).status_code == 422
    assert post("/forgot-password", {"email": "no@b.co"}).status_code == 202
    assert (
        detail(post("/reset-password", {"token": "x", "password": WORD}), 400) == "RESET_PASSWORD_BAD_TOKEN"
    )
    assert detail(post("/verify", {"token": "x"}), 400) == "VERIFY_USER_BAD_TOKEN"


def test_a_forgotten_password_is_set_anew_and_ends_what_let_in_before(
    john: Person, platform: Platform
) -> None:
    token = platform.sessions.reset_link(OPERATOR, john.email).partition("token=")[2]
    weak = john("POST", "/auth/reset-password", {"token": token, "password": "x"})
    assert detail(weak, 400)["code"] == "RESET_PASSWORD_INVALID_PASSWORD"
    done = john("POST", "/auth/reset-password", {"token": token, "password": "another-canary-9"})
    assert (done.status_code, done.json()) == (200, None)
    assert john("GET", "/users/me").status_code == 401
    again = john("POST", "/auth/reset-password", {"token": token, "password": "another-canary-9"})
    assert detail(again, 400) == "RESET_PASSWORD_BAD_TOKEN"


def test_users_see_themselves_and_administrators_all(
    john: Person, root: Person, join: Callable[[str], Person]
) -> None:
    jane = join("jane@company.com")
    me = john("GET", "/users/me").json()
    assert john("GET", f"/users/{john.id}").json() == john("GET", f"/users/{john.id}/").json() == me
    for other in (jane.id, NOBODY, "nonsense"):
        assert detail(john("GET", f"/users/{other}"), 403) == "Forbidden"
    assert detail(root("GET", f"/users/{NOBODY}"), 404) == "User not found"
    assert [u["email"] for u in john("GET", "/users").json()["items"]] == [john.email]
    assert root("GET", "/users").json()["total"] == 3
    found = john("GET", f"/users?search={jane.email}").json()
    assert [u["id"] for u in found["items"]] == [jane.id]
    changed = john("PATCH", "/users/me", {"email": "johnny@Company.COM", "is_superuser": True}).json()
    assert (changed["email"], changed["is_superuser"]) == ("johnny@company.com", False)
    taken = john("PATCH", "/users/me", {"email": jane.email})
    assert detail(taken, 400) == "UPDATE_USER_EMAIL_ALREADY_EXISTS"
    assert detail(john("PATCH", "/users/me", {"active_env_id": NOBODY}), 404) == "Environment not found"
    assert detail(john("DELETE", f"/users/{jane.id}"), 403) == "Forbidden"
    assert root("PATCH", f"/users/{jane.id}", {"is_active": False}).json()["is_active"] is False
    assert detail(jane("GET", "/users/me"), 401) == "Unauthorized"
    assert root("DELETE", f"/users/{jane.id}").status_code == 204
    assert root("PATCH", f"/users/{root.id}", {"is_superuser": False}).status_code == 400
    assert root("DELETE", f"/users/{root.id}").status_code == 409


def test_a_changed_password_ends_other_tokens_and_keeps_the_one_it_came_with(john: Person) -> None:
    old = john.http.headers["Authorization"]
    john.login()
    wrong = john("POST", "/users/me/change-password", {"old_password": "x", "new_password": "long-enough-1"})
    assert detail(wrong, 400) == "CHANGE_PASSWORD_BAD_OLD_PASSWORD"
    weak = john("POST", "/users/me/change-password", {"old_password": WORD, "new_password": "x"})
    assert detail(weak, 400)["code"] == "UPDATE_USER_INVALID_PASSWORD"
    done = john("POST", "/users/me/change-password", {"old_password": WORD, "new_password": "long-enough-1"})
    assert done.json()["id"] == john.id
    assert john("GET", "/users/me").status_code == 200
    john.http.headers["Authorization"] = old
    assert john("GET", "/users/me").status_code == 401


def test_a_service_token_reads_places_and_touches_no_people(john: Person) -> None:
    env = john("POST", "/envs", {"name": "prod"}).json()
    bad = john("POST", "/users/me/service-account-token", {"expires_in_days": 366})
    assert detail(bad, 422)[0]["loc"] == ["body", "expires_in_days"]
    made = john("POST", "/users/me/service-account-token").json()
    assert list(made) == ["id", "access_token", "token_type", "name", "expires_at"]
    john.http.headers["Authorization"] = f"Bearer {made['access_token']}"
    assert [e["id"] for e in john("GET", "/envs").json()["items"]] == [env["id"]]
    assert john("GET", "/teams").json()["items"] == []
    for method, path in (
        ("GET", "/users/me"), ("GET", "/users"), ("POST", "/users/me/service-account-token"),
        ("POST", "/auth/jwt/logout"),
    ):  # fmt: skip
        assert detail(john(method, path), 403) == "Forbidden", path


def test_environments_belong_to_those_who_are_in_them(john: Person, join: Callable[[str], Person]) -> None:
    jane = join("jane@company.com")
    env = john("POST", "/envs", {"name": "prod"}).json()
    assert detail(john("POST", "/envs/", {"name": "prod"}), 400).startswith("You are in a workspace")
    for method, body in (("GET", None), ("PATCH", {"name": 7}), ("DELETE", None)):
        assert detail(jane(method, f"/envs/{env['id']}", body), 404) == "Environment not found"
        assert detail(jane(method, f"/envs/{NOBODY}", body), 404) == "Environment not found"
    assert detail(john("GET", "/envs/7"), 422)[0]["type"] == "uuid_parsing"
    assert john("GET", "/envs/filter-one?name=prod").json() == env
    assert detail(john("GET", "/envs/filter-one?name=PROD"), 404) == "Environment not found"
    assert john("GET", "/envs/filter-one").status_code == 422
    changed = john("PATCH", f"/envs/{env['id']}", {"description": "d", "use_retention": True}).json()
    assert changed == env | {"description": "d", "use_retention": True}
    assert detail(jane("GET", "/envs/members"), 400) == "No active environment"
    mine = john("GET", "/envs/members").json()
    assert [(m["user_id"], m["email"], m["admin"]) for m in mine["items"]] == [(john.id, john.email, True)]
    assert john("GET", "/envs/members/me").json() == mine["items"][0]
    team = john("POST", "/teams", {"name": "t"}).json()
    john("POST", f"/teams/{team['id']}/members/bulk", {"members": [jane.id]})
    assert jane("GET", f"/envs/{env['id']}").status_code == 200
    assert detail(jane("PATCH", f"/envs/{env['id']}", {"name": "x"}), 403) == "Forbidden"
    assert john("DELETE", f"/envs/{env['id']}").status_code == 204
    assert john("GET", "/envs").json()["items"] == []
    assert detail(john("GET", "/teams"), 400) == "No active environment"


def test_the_broker_of_an_environment_keeps_its_secrets(john: Person, platform: Platform) -> None:
    broker = {
        "bootstrap_server": "k:9092", "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN",
        "sasl_username": "u", "sasl_password": "canary-57", "group_id": "g",
    }  # fmt: skip
    made = john("POST", "/envs", {"name": "prod", "retention_configuration": broker})
    shown = {k: broker[k] for k in ("bootstrap_server", "security_protocol", "sasl_mechanism", "group_id")}
    env = made.json()
    assert env["use_retention"] is True and env["retention_configuration"] == shown
    at = f"/envs/{env['id']}"
    kept = broker | {"sasl_password": "<redacted>"}
    assert john("PATCH", at, {"retention_configuration": kept}).status_code == 200
    moved = john("PATCH", at, {"retention_configuration": kept | {"bootstrap_server": "evil:1"}})
    assert detail(moved, 422)[0]["loc"] == ["body", "retention_configuration", "sasl_password"]
    assert john("PATCH", at, {"retention_configuration": None}).json()["retention_configuration"] is None
    nothing = john("PATCH", at, {"retention_configuration": kept})
    assert detail(nothing, 422)[0]["loc"] == ["body", "retention_configuration", "sasl_password"]
    texts = [made.text, john("GET", at).text, moved.text, repr(platform.audits.all(OPERATOR, limit=1000))]
    assert not any("canary" in text for text in texts)


def test_the_credentials_of_a_broker_are_tried(john: Person) -> None:
    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    brokers = cluster.list_topics(timeout=HANGS).brokers
    server = ",".join(f"{b.host}:{b.port}" for b in brokers.values())
    good = john("POST", "/envs/check-byok-credentials", {"bootstrap_server": server}).json()
    assert good == {"status": True, "is_success": True, "message": "Connected"}
    body = {"retention_configuration": {"bootstrap_servers": "169.254.169.254:80"}}
    bad = john("POST", "/brokers/", body).json()
    assert bad["is_success"] is False and "no connection may go" in bad["message"]
    assert detail(john("POST", "/brokers", {}), 422)[0]["loc"][-1] == "bootstrap_server"


def test_teams_are_for_their_members(john: Person, root: Person, join: Callable[[str], Person]) -> None:
    jane, mary = join("jane@company.com"), join("mary@company.com")
    env = john("POST", "/envs", {"name": "prod"}).json()
    team = john("POST", "/teams", {"name": "t"}).json()
    other = john("POST", "/teams", {"name": "other", "env_id": env["id"]}).json()
    at = f"/teams/{team['id']}"
    assert detail(john("POST", "/teams", {"name": "t"}), 400).startswith("There is a team")
    assert detail(jane("POST", "/teams", {"name": "x"}), 400) == "No active environment"
    assert detail(jane("POST", "/teams", {"name": "x", "env_id": env["id"]}), 404) == "Environment not found"
    assert detail(jane("GET", at), 404) == "Team not found"
    john("POST", f"/teams/{other['id']}/members/bulk", {"members": [jane.id]})
    assert detail(jane("GET", at), 403) == "Forbidden"
    assert detail(jane("GET", "/teams/filter-one?name=t"), 404) == "Team not found"
    assert [t["name"] for t in jane("GET", "/teams").json()["items"]] == ["other"]
    unknown = john("POST", f"{at}/members/bulk", {"members": [mary.id], "owners": [NOBODY]})
    assert detail(unknown, 404) == "User not found"
    assert [m["id"] for m in john("GET", f"{at}/members").json()] == [john.id]
    assert john("POST", f"{at}/members/bulk", {"members": [jane.id], "owners": [mary.id]}).status_code == 204
    page = john("GET", f"{at}/members?page=2&size=2").json()
    assert ([m["id"] for m in page["items"]], page["total"], page["pages"]) == ([jane.id], 3, 2)
    assert jane("GET", f"{at}/members/me").json()["role"] == "member"
    assert detail(jane("PATCH", at, {"name": 7}), 403) == "Forbidden"
    assert john("PATCH", at, {"description": "d", "env_id": env["id"]}).json()["description"] == "d"
    assert detail(john("PATCH", at, {"env_id": NOBODY}), 422)[0]["loc"] == ["body", "env_id"]
    assert detail(jane("DELETE", f"{at}/members/{mary.id}"), 403) == "Forbidden"
    membership = jane("GET", f"{at}/members/me").json()["membership_id"]
    assert jane("DELETE", f"{at}/members/{membership}").status_code == 204
    assert john("DELETE", f"{at}/members/{mary.id}").status_code == 204
    assert john("DELETE", f"{at}/members/{john.id}").status_code == 204
    assert detail(root("GET", at), 404) == "Team not found"
    john("POST", f"/teams/{other['id']}/members/bulk", {"members": [mary.id]})
    assert john("DELETE", f"/teams/{other['id']}/members/{john.id}").status_code == 409
    assert john("DELETE", f"/teams/{other['id']}").status_code == 204


def test_pages_are_cut_by_page_or_by_skip(john: Person) -> None:
    for number in range(12):
        john("POST", "/envs", {"name": f"env {number:02}"})

    def names(query: str) -> list[str]:
        return [env["name"] for env in john("GET", f"/envs/?{query}").json()["items"]]

    assert names("skip=7&limit=3") == ["env 07", "env 08", "env 09"]
    assert names("page=2&size=5&skip=1") == [f"env {n:02}" for n in range(5, 10)]
    assert names("search=ENV 1") == ["env 10", "env 11"]
    assert names("search=%25") == names("page=9") == []
    page = john("GET", "/envs?skip=7&limit=500").json()
    assert (page["size"], page["page"], page["total"], page["pages"]) == (100, 1, 12, 1)
    assert john("GET", "/envs?size=101").status_code == john("GET", "/envs?page=0").status_code == 422


def test_everybody_is_exported_and_imported_or_nobody_is(
    root: Person, john: Person, join: Callable[[str], Person]
) -> None:
    env = john("POST", "/envs", {"name": "prod"}).json()
    john("POST", "/teams", {"name": "t"})
    assert detail(john("GET", "/users/export-all"), 403) == "Forbidden"
    assert detail(john("POST", "/users/import-all", {}), 403) == "Forbidden"
    whole = root("GET", "/users/export-all").json()
    assert list(whole) == ["users", "envs", "teams", "env_members", "team_members"]
    assert env in whole["envs"]
    assert root("POST", "/users/import-all", whole).status_code == 204
    assert root("GET", "/users/export-all").json() == whole
    wrong = whole | {"team_members": [*whole["team_members"], {"user_id": NOBODY, "team_id": NOBODY}]}
    assert root("POST", "/users/import-all", wrong).status_code == 422
    assert root("POST", "/users/import-all", {"users": []}).status_code == 422
    assert root("GET", "/users/export-all").json() == whole
    nothing = {name: [] for name in whole}
    assert root("POST", "/users/import-all", nothing).status_code == 204
    left = root("GET", "/users/export-all").json()
    assert [(u["id"], u["is_superuser"]) for u in left["users"]] == [(root.id, True)]
    assert detail(john("GET", "/users/me"), 401) == "Unauthorized"


def test_a_verification_proves_the_address_that_it_was_sent_to(john: Person, platform: Platform) -> None:
    text = random_text()
    ends = datetime.now(UTC) + timedelta(hours=1)
    platform._store.tokens.add_once(john.id, "verify", hash_of(text), ends)
    john("PATCH", "/users/me", {"email": "victim@company.com"})
    assert detail(john("POST", "/auth/verify", {"token": text}), 400) == "VERIFY_USER_BAD_TOKEN"
    assert john("GET", "/users/me").json()["is_verified"] is False


def test_a_broker_whose_secret_is_not_there_makes_no_environment(john: Person) -> None:
    broker = {"bootstrap_server": "k:9092", "sasl_password": "<redacted>"}
    answer = john("POST", "/envs", {"name": "prod", "retention_configuration": broker})
    assert detail(answer, 422)[0]["loc"] == ["body", "retention_configuration", "sasl_password"]
    assert john("GET", "/envs").json()["items"] == []


def test_addresses_that_are_swapped_are_refused_and_nothing_is_changed(root: Person, john: Person) -> None:
    whole = root("GET", "/users/export-all").json()
    emails = {root.id: john.email, john.id: root.email}
    swapped = whole | {"users": [u | {"email": emails[u["id"]]} for u in whole["users"]]}
    assert root("POST", "/users/import-all", swapped).status_code in (409, 422)
    assert root("GET", "/users/export-all").json() == whole
    assert john("GET", f"/envs?page={9 * 10**30}").json()["items"] == []


def test_who_has_not_signed_in_sends_little(address: str) -> None:
    form = {"username": "a@b.co", "password": "x" * (1 << 17)}
    assert httpx.post(f"{address}/api/auth/jwt/login", data=form).status_code == 413
    pieces = iter([b"username=a", b"&password=b"])
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{address}/api/auth/jwt/login", content=pieces, headers=kind).status_code == 413
