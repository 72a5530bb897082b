"""The kernelspec's parameters: a JSON schema as JEP 87 has it, of what a sandbox can be asked to have."""

import json
from dataclasses import fields

import pytest
from jsonschema import Draft202012Validator

from hyper_kernel.jupyter import kernelspec
from hyper_kernel.spec import KernelSpec, Limits, SandboxSpec

METADATA = json.loads((kernelspec._SOURCE / "kernel.json").read_text())["metadata"]
PARAMETERS = METADATA["parameters"]


def test_parameters_are_a_schema_of_closed_lists():
    Draft202012Validator.check_schema(PARAMETERS)
    assert PARAMETERS["additionalProperties"] is False
    for name, each in PARAMETERS["properties"].items():
        assert each["enum"] and each["title"], name


def test_parameters_are_what_a_sandbox_can_have():
    known = {item.name for kind in (SandboxSpec, KernelSpec, Limits) for item in fields(kind)}
    assert set(PARAMETERS["properties"]) <= known


def test_the_image_is_the_one_that_the_provisioner_starts():
    assert PARAMETERS["properties"]["image"]["enum"] == [METADATA["kernel_provisioner"]["config"]["image"]]


@pytest.mark.parametrize("asked", [{"memory_mib": 300}, {"memory_mib": "512"}, {"network": "all"}])
def test_what_is_not_in_the_lists_is_no_parameter(asked):
    assert not Draft202012Validator(PARAMETERS).is_valid(asked)
