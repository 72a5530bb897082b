"""The extension's REST API, held against rest-api.yml."""

import asyncio
import json
import re

import nbformat
import pytest
from jupyter_server.auth import Authorizer
from tornado.httpclient import HTTPClientError

from hyper_kernel.jupyter import kernelspec
from hyper_kernel.jupyter.wishes import WISHES, Wish
from tests.fakes.fixtures import shell
from tests.unit.ext_schema import API, METHODS, check, check_named, operations
from tests.unit.ext_server import serving

V1 = "/hyper/api/v1"


@pytest.fixture
def root(fake_home, tmp_path, monkeypatch):
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    kernelspec.install()
    folder = tmp_path / "notebooks"
    folder.mkdir()
    return folder


class NobodyMay(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return resource != "hyper"


def routes_of(served):
    """What the extension added: path as in rest-api.yml to handler."""
    names = {"sandboxes": "id", "terminals": "name", "websocket": "name", "changes": "path"}
    found = {}
    for pattern, handler, *_ in served.extension.handlers:
        parts = pattern.split("/")
        for at, part in enumerate(parts):
            if part.startswith("("):
                parts[at] = "{" + names[parts[at - 1]] + "}"
        found["/".join(parts)] = handler
    return found


def example(path):
    return re.sub(r"\{id\}", "someid", path).replace("{name}", "1").replace("{path}", "a.txt")


async def ask_all(served, **options):
    """Every operation once; websockets by their request."""
    answers = {}
    for path, method in operations():
        body = {} if method in ("post", "put") else None
        answers[path, method] = await served.ask(method.upper(), example(path), body, **options)
    return answers


def test_routes_and_methods_are_those_that_are_written(root):
    async def scenario():
        async with serving(root) as served:
            routes = routes_of(served)
        assert set(routes) == set(API["paths"])
        for path, handler in routes.items():
            own = {name for cls in handler.__mro__ if cls.__module__.startswith("jupyter_ext") for name in vars(cls)}
            assert own & set(METHODS) == API["paths"][path].keys() & set(METHODS), path

    asyncio.run(scenario())


def test_nobody_unknown_and_nobody_unauthorized_gets_anything(root):
    async def scenario():
        async with serving(root, ServerApp={"allow_unauthenticated_access": False}) as served:
            strangers = await ask_all(served, token="")
            wrong = await ask_all(served, token="guessed")
        async with serving(root, ServerApp={"authorizer_class": NobodyMay}) as served:
            refused = await ask_all(served)
            with pytest.raises(HTTPClientError) as caught:
                await served.connect("/hyper/terminals/websocket/1")
            assert caught.value.code == 403
        for answers in (strangers, wrong, refused):
            assert {each.status for each in answers.values()} == {403}
            for (path, method), answer in answers.items():
                if "websocket" not in path:
                    check(answer, path, method)

    asyncio.run(scenario())


def test_a_page_of_another_site_can_change_nothing(root):
    """With the cookie of a user who is logged in, but without the XSRF token, as a form on another site would ask."""

    async def scenario():
        async with serving(root, IdentityProvider={"token": ""}, ServerApp={"disable_check_xsrf": False}) as served:
            login = await served.ask("GET", "/api/me", token="")
            cookie = "; ".join(each.split(";")[0] for each in login.headers.get_list("Set-Cookie"))
            for path, method in operations():
                if method != "get":
                    body = None if method == "delete" else {}
                    answer = await served.ask(method.upper(), example(path), body, token="", headers={"Cookie": cookie})
                    assert answer.status == 403, path
                    assert "_xsrf" in answer.json["message"]

    asyncio.run(scenario())


def test_off_is_off(root, fake_home):
    async def scenario():
        async with serving(root, HyperKernelApp={"enabled": False}) as served:
            assert (await served.ask("GET", f"{V1}/status")).status == 404
            assert "hyper_" not in await served.get("/metrics")
            assert served.app.session_manager.database_filepath == ":memory:"
            await served.ask("GET", "/api/kernels")

    asyncio.run(scenario())
    assert not (fake_home / "state").exists()


def test_reading_starts_no_hyperd(root, fake_home):
    async def scenario():
        async with serving(root) as served:
            answers = {
                (path, method): await served.ask("GET", example(path))
                for path, method in operations()
                if method == "get" and "websocket" not in path
            }
            for (path, method), answer in answers.items():
                check(answer, path, method)
            status = answers[f"{V1}/status", "get"].json
            assert status["hyperd"] == "stopped"
            assert answers[f"{V1}/sandboxes", "get"].json == []
            assert answers[f"{V1}/kernels", "get"].json == {}
            assert answers[f"{V1}/policy", "get"].status == 503
            assert answers[f"{V1}/sandboxes/{{id}}", "get"].status == 404
            await served.get("/metrics")

    asyncio.run(scenario())
    assert not (fake_home / "run" / "hyperd.sock").exists()


def test_a_program_and_a_kernel_through_all_that_can_be_asked(root, client):
    async def scenario():
        async with serving(root) as served:
            program = client.create(shell("echo hello; sleep 1000"), "prog")
            client.start("prog")
            body = {"path": "a.ipynb", "name": "a.ipynb", "type": "notebook", "kernel": {"name": "hyper-python"}}
            session = (await served.ask("POST", "/api/sessions", body)).json
            for path in ("sandboxes", "kernels", "images", "templates", "policy", "status"):
                check(await served.ask("GET", f"{V1}/{path}"), f"{V1}/{path}", "get")
            sandboxes = await served.get(f"{V1}/sandboxes")
            kernel, other = sandboxes
            assert other["id"] == program.id
            assert other["kernel"] is None
            assert kernel["kernel"] == {
                "id": session["kernel"]["id"],
                "path": "a.ipynb",
                "name": "hyper-python",
                "session": session["id"],
                "state": "starting",
            }
            assert kernel["folder"] == str(root)
            assert await served.get(f"{V1}/kernels") == {session["kernel"]["id"]: kernel}
            assert (await served.get(f"{V1}/sandboxes/prog"))["id"] == program.id
            check_named(await served.get(f"{V1}/sandboxes/{kernel['id'][:12]}"), "Sandbox")
            assert await served.get(f"{V1}/sandboxes/prog/logs?tail=1") == {"text": "hello\n"}

            act = f"{V1}/sandboxes/{{id}}/actions"
            for ref, action, status in [
                ("prog", "fly", 400),
                ("nobody", "stop", 404),
                ("prog", "interrupt", 204),
                (kernel["id"], "interrupt", 204),
                ("prog", "remove", 204),
            ]:
                answer = await served.ask("POST", act.replace("{id}", ref), {"action": action})
                check(answer, act, "post")
                assert answer.status == status, answer.text
            assert (await served.ask("POST", act.replace("{id}", kernel["id"]), {"do": "stop"})).status == 400

            await served.ask("POST", act.replace("{id}", kernel["id"]), {"action": "kill"})
            assert await served.get("/api/sessions") == []
            assert await served.get(f"{V1}/sandboxes?all=1") == []

    asyncio.run(scenario())


def test_wishes_are_held_to_policy_and_reach_the_kernel(root, fake_home, client):
    (root / "sub").mkdir()
    (fake_home / "policy.toml").write_text("[sandbox]\nmemory_mib = 1024\n")

    async def scenario():
        async with serving(root) as served:
            wish = {"path": "sub/a.ipynb", "memory_mib": 768, "limits": {"cell_s": 30}}
            answer = await served.ask("PUT", f"{V1}/wishes", wish)
            check(answer, f"{V1}/wishes", "put")
            assert (answer.json["memory_mib"], answer.json["cpus"], answer.json["limits"]["cell_s"]) == (768, 1, 30)
            for wrong, status in [
                ({"memory_mib": 2048}, 403),
                ({"memory_mib": "2"}, 400),
                ({"memory_mib": 1.5}, 400),
                ({"limits": {"tea": 1}}, 400),
                ({"files": "sideways"}, 400),
                ({"output": "trusted"}, 403),
                ({"colour": "red"}, 400),
                ({"path": ""}, 400),
            ]:
                answer = await served.ask("PUT", f"{V1}/wishes", {"path": "b.ipynb"} | wrong)
                check(answer, f"{V1}/wishes", "put")
                assert answer.status == status, answer.text
            assert "1024" in (await served.ask("PUT", f"{V1}/wishes", wish | {"memory_mib": 2048})).json["message"]

            body = {"path": "sub/a.ipynb", "name": "a.ipynb", "type": "notebook", "kernel": {"name": "hyper-python"}}
            await served.ask("POST", "/api/sessions", body)
            (kernel,) = await served.get(f"{V1}/sandboxes")
            assert (kernel["memory_mib"], kernel["limits"]["cell_s"]) == (768, 30)

            more = {"path": "sub/a.ipynb", "memory_mib": 1024, "image": kernel["image"]}  # the same, by its name
            await served.ask("PUT", f"{V1}/wishes", more)
            manager = served.app.kernel_manager.get_kernel(kernel["kernel"]["id"])
            await manager.restart_kernel(now=True)
            (again,) = await served.get(f"{V1}/sandboxes")
            assert again["id"] == kernel["id"]
            assert (again["memory_mib"], again["limits"]["cell_s"]) == (1024, 0)
            await served.ask("PUT", f"{V1}/wishes", {"path": "sub/a.ipynb"})

    asyncio.run(scenario())


def test_a_wish_goes_where_its_notebook_goes(root, fake_home, client):
    (root / "sub").mkdir()
    for name in ("Untitled.ipynb", "other.ipynb"):
        (root / "sub" / name).write_text(json.dumps(nbformat.v4.new_notebook()))

    async def start(served, path):
        kernel = {"name": "hyper-python"}
        body = {"path": path, "name": path.rpartition("/")[2], "type": "notebook", "kernel": kernel}
        session = (await served.ask("POST", "/api/sessions", body)).json
        return session["id"], session["kernel"]["id"]

    async def memory_of(served, kernel):
        return {each["kernel"]["id"]: each["memory_mib"] for each in await served.get(f"{V1}/sandboxes")}[kernel]

    async def scenario():
        async with serving(root) as served:
            usual = (await served.ask("PUT", f"{V1}/wishes", {"path": "b"})).json["memory_mib"]
            await served.ask("PUT", f"{V1}/wishes", {"path": "sub/Untitled.ipynb", "memory_mib": 640})
            session, kernel = await start(served, "sub/Untitled.ipynb")
            for old, new in (("sub/Untitled.ipynb", "sub/mine.ipynb"), ("sub", "moved")):
                await served.ask("PATCH", f"/api/contents/{old}", {"path": new})
            await served.ask("PATCH", f"/api/sessions/{session}", {"path": "moved/mine.ipynb"})
            manager = served.app.kernel_manager.get_kernel(kernel)

            await manager.restart_kernel(now=True)
            assert await memory_of(served, kernel) == 640, "its kernel keeps what it had"
            await served.ask("PUT", f"{V1}/wishes", {"path": "moved/mine.ipynb", "memory_mib": 768})
            await manager.restart_kernel(now=True)
            assert await memory_of(served, kernel) == 768, "restart with more memory"
            assert WISHES.find(str(root / "moved/mine.ipynb")).memory_mib == 768

            (root / "sub").mkdir()
            _, another = await start(served, "sub/Untitled.ipynb")
            assert await memory_of(served, another) == usual, "another notebook has the name now"
            await served.ask("DELETE", "/api/contents/moved/mine.ipynb")
            assert WISHES.find(str(root / "moved/mine.ipynb")) == Wish()

    asyncio.run(scenario())


def test_errors_of_a_broken_body_are_told(root):
    async def scenario():
        async with serving(root) as served:
            request = await served.ask("PUT", f"{V1}/wishes", "[1")
            check(request, f"{V1}/wishes", "put")
            assert request.status == 400
            assert json.loads(request.text)["kind"] == "RequestError"

    asyncio.run(scenario())
