"""What the doctor says of a host's walls and settings."""

import os
from types import SimpleNamespace

import pytest

from hyper_kernel.host import doctor, guidance
from hyper_kernel.host.guidance import collect_guidance, collect_walls
from hyper_kernel.host.jail import can_open

WELL = {
    "sys/kernel/mm/ksm/run": "0",
    "proc/swaps": "Filename Type Size Used Priority",
    "sys/devices/system/cpu/smt/active": "0",
    "sys/module/kvm_amd/parameters/nested": "0",
    "sys/devices/system/cpu/vulnerabilities/meltdown": "Not affected",
}
ILL = {
    "sys/kernel/mm/ksm/run": ("1", "KSM"),
    "proc/swaps": ("Filename Type\n/dev/sda2 partition 1 0 -2", "swap"),
    "sys/devices/system/cpu/smt/active": ("1", "SMT"),
    "sys/module/kvm_amd/parameters/nested": ("1", "nested KVM"),
    "sys/devices/system/cpu/vulnerabilities/meltdown": ("Vulnerable", "mitigations"),
}


def host(tmp_path, settings):
    for name, text in settings.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return {fact.name: fact for fact in collect_guidance(tmp_path)}


def test_a_host_that_is_set_up_well_needs_no_advice(tmp_path):
    facts = host(tmp_path, WELL)
    assert len(facts) == 5
    assert {fact.mend for fact in facts.values()} == {""}


@pytest.mark.parametrize("name", ILL)
def test_what_is_not_well_is_said_with_a_remedy_and_stops_nobody(tmp_path, name):
    text, what = ILL[name]
    facts = host(tmp_path, WELL | {name: text})
    assert [fact.name for fact in facts.values() if fact.mend] == [what]
    assert all(fact.ok for fact in facts.values())


def test_this_host_makes_the_jail():
    facts = {fact.name: fact for fact in collect_walls()}
    assert facts["jail"].ok, facts["jail"]
    assert set(facts) == {"jail", "Landlock", "cgroups"}


def test_a_host_that_does_not_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(guidance, "_PROBE", ("sh", "-c", "echo 'bwrap: no' >&2; exit 1"))
    fact = collect_walls()[0]
    assert (fact.ok, fact.found) == (False, "bwrap: no")
    assert fact.mend


@pytest.mark.parametrize(
    ("mode", "group", "can"), [(0o600, 0, False), (0o660, 0, False), (0o660, 105, True), (0o666, 0, True)]
)
def test_who_can_open_a_device(mode, group, can):
    assert can_open(SimpleNamespace(st_mode=0o020000 | mode, st_gid=group)) is can


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user's machines run as themselves")
def test_a_device_that_is_roots_alone_is_named(monkeypatch, tmp_path):
    (tmp_path / "kvm").touch(mode=0o600)
    monkeypatch.setattr(doctor, "KVM", tmp_path / "kvm")
    assert "chgrp kvm" in doctor._kvm().mend
