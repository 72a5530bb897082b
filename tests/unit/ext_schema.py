"""rest-api.yml as the tests use it."""

from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

API = yaml.safe_load((Path(__file__).parents[2] / "jupyter_ext/rest-api.yml").read_text())
METHODS = ("get", "put", "post", "delete")


def operations():
    """``(path, method)`` of each."""
    return [(path, method) for path, item in API["paths"].items() for method in METHODS if method in item]


def as_json_schema(node):
    """OpenAPI 3.0 says with ``nullable`` what JSON schema says with a type."""
    if isinstance(node, list):
        return [as_json_schema(each) for each in node]
    if not isinstance(node, dict):
        return node
    node = {name: as_json_schema(value) for name, value in node.items() if name != "nullable"} | {
        "__nullable": node.get("nullable", False)
    }
    is_nullable = node.pop("__nullable")
    return {"anyOf": [node, {"type": "null"}]} if is_nullable is True else node


_COMPONENTS = as_json_schema(API["components"])


def check(answer, path, method):
    """Whether an answer of the server is as it is written."""
    responses = API["paths"][path][method]["responses"]
    response = responses.get(str(answer.status), responses["default"])
    if "$ref" in response:
        response = API["components"]["responses"][response["$ref"].rpartition("/")[2]]
    if "content" not in response:
        assert answer.text == ""
        return
    schema = as_json_schema(response["content"]["application/json"]["schema"]) | {"components": _COMPONENTS}
    Draft202012Validator(schema).validate(answer.json)


def check_named(value, name):
    """Whether a value is as the schema of that name."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": _COMPONENTS}
    Draft202012Validator(schema).validate(value)
