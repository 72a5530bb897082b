"""hyperd's policy, without hyperd: what files say, what requests get, what is refused and in which words."""

import tomllib
from dataclasses import asdict, fields, replace
from importlib import resources

import pytest

from hyper_kernel.errors import BusyError, DeniedError, RequestError
from hyper_kernel.hypervisor import Tier
from hyper_kernel.limits import MAX_LIVE
from hyper_kernel.policy.parse import PolicyError, find_line, parse_policy
from hyper_kernel.policy.rules import (
    Amounts,
    Policy,
    UserCaps,
    UserFacts,
    admit,
    amounts_of,
    asked_of,
    check_tier,
    check_user,
    only_asked,
)
from hyper_kernel.spec import KernelSpec, Limits, SandboxSpec

FILE = "/etc/hyper-kernel/policy.toml"
EXAMPLE = (resources.files("hyper_kernel.policy") / "example.toml").read_text()


def parse(text):
    return parse_policy(text, FILE)


def test_the_example_names_every_key_with_its_default():
    assert parse(EXAMPLE) == Policy()
    data = tomllib.loads(EXAMPLE.replace("# scratch_mib", "scratch_mib"))
    amounts = {item.name for item in fields(Amounts)}
    users = {item.name for item in fields(UserCaps)}
    assert {table: set(keys) for table, keys in data.items()} == {
        "default": amounts,
        "sandbox": amounts,
        "user": users,
        "output": {"trusted"},
        "isolation": {"tier"},
        "files": {"modes"},
    }


def test_an_empty_file_is_the_default():
    assert parse("") == Policy()


def test_what_a_file_says_is_in_the_policy():
    policy = parse(
        '[default]\nmemory_mib = 256\nwall_s = 3600\n[sandbox]\nwall_s = 7200.5\nprocesses = "unlimited"\n'
        "[user]\nsandboxes = 3\nmemory_mib = 1024\ncpu_s_per_day = 60\n[output]\ntrusted = true\n"
        '[isolation]\ntier = "hardware"\n[files]\nmodes = ["none"]\n'
    )
    assert policy.default == replace(Policy().default, memory_mib=256, wall_s=3600.0)
    assert policy.sandbox == replace(Policy().sandbox, wall_s=7200.5)
    assert policy.user == UserCaps(sandboxes=3, memory_mib=1024, cpu_s_per_day=60)
    assert (policy.trusted_output, policy.tier, policy.files, policy.file) == (True, Tier.HARDWARE, ("none",), FILE)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[sandbox]\ncpus 3", "(at line 2, column 6)"),
        ("[sandbox]\n\nmemory = 1", ", line 3: sandbox.memory is not known; the nearest that is: sandbox.memory_mib"),
        ("[sandbxo]", ", line 1: [sandbxo] is not known; the nearest that is: [sandbox]"),
        ("[[user]]", "user is not a table"),
        ("user = 3", ", line 1: user is not a table: write [user] on a line of its own"),
        ("sandbox.cpus = 99", ", line 1: sandbox.cpus = 99 is outside 1 to 16"),
        ("[user]\nsandboxes = 1\n[default]\n  cpus=0", ", line 4: default.cpus = 0 is outside 1 to 16"),
        ("[default]\nmemory_mib = 64", "default.memory_mib = 64 is outside 192 to 65536"),
        ('[sandbox]\nmemory_mib = "unlimited"', "sandbox.memory_mib cannot be unlimited"),
        ('[default]\nscratch_mib = "unlimited"', "default.scratch_mib cannot be unlimited"),
        ("[sandbox]\nwall_s = 0", 'sandbox.wall_s = 0 is below 1; no limit is "unlimited"'),
        ("[sandbox]\nwall_s = nan", "sandbox.wall_s = nan is below 1"),
        ("[sandbox]\ncell_s = true", 'sandbox.cell_s = True is not a number, nor "unlimited"'),
        ('[default]\ncpus = "two"', "default.cpus = 'two' is not a whole number"),
        ("[default]\nprocesses = 100.5", "default.processes = 100.5 is not a whole number"),
        ("[user]\nsandboxes = 1001", f"user.sandboxes = 1001 is outside 1 to {MAX_LIVE}"),
        ("[output]\ntrusted = 1", "output.trusted = 1 is not true or false"),
        ("[output]\ntrust = true", "output.trust is not known; the nearest that is: output.trusted"),
        ('[isolation]\ntier = "kvm"', 'isolation.tier = \'kvm\' is not "software" or "hardware"'),
        ('[files]\nmodes = ["link"]', "files.modes = ['link'] is not a list of"),
        ("[files]\nmodes = []", "files.modes = [] is not a list of"),
        ("[default]\ncpus = 4\n[sandbox]\ncpus = 2", ", line 2: default.cpus = 4 is above sandbox.cpus = 2"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_line(text, says):
    with pytest.raises(PolicyError) as caught:
        parse(text)
    assert str(caught.value).startswith(f"the policy cannot be read: {FILE}")
    assert says in str(caught.value)
    assert "nothing is started" in caught.value.hint


def test_lines_are_found():
    text = "# cpus = 1\nuser.x = 1\n[default]\ncpus = 1\n['sandbox']\n\"cpus\" = 2\nuser.y = 1"
    assert find_line(text, "user", "x") == 2
    assert find_line(text, "default", "cpus") == 4
    assert find_line(text, "sandbox", "") == 5
    assert find_line(text, "sandbox", "cpus") == 6
    assert find_line(text, "user", "y") == 0


def test_who_asks_for_nothing_gets_the_default():
    spec = admit(Policy(), SandboxSpec())
    assert amounts_of(spec) == Amounts(
        memory_mib=512,
        cpus=1,
        scratch_mib=256,
        processes=1024,
        output_bytes=256 << 20,
        output_bytes_per_s=64 << 20,
    )
    assert admit(Policy(), spec) == spec


def test_what_is_asked_for_is_given_up_to_the_cap():
    policy = Policy(
        default=Amounts(memory_mib=512, cpus=1, wall_s=60), sandbox=Amounts(memory_mib=1024, cpus=2, wall_s=90)
    )
    asked = SandboxSpec(memory_mib=1024, cpus=2, limits=Limits(wall_s=90, scratch_mib=700))
    assert amounts_of(admit(policy, asked)) == Amounts(memory_mib=1024, cpus=2, wall_s=90, scratch_mib=700)


AMOUNTS = {
    "memory_mib": (8192, 4096, "memory of 8192 MiB is above the cap of 4096 MiB"),
    "cpus": (4, 2, "number of processors of 4 is above the cap of 2"),
    "cpu_percent": (200, 50, "share of a processor of 200 % is above the cap of 50 %"),
    "scratch_mib": (400, 300, "scratch space of 400 MiB is above the cap of 300 MiB"),
    "processes": (5000, 100, "number of processes of 5000 is above the cap of 100"),
    "wall_s": (90.5, 60, "life time of 90.5 s is above the cap of 60 s"),
    "cell_s": (61, 60, "time for a cell of 61 s is above the cap of 60 s"),
    "output_bytes": (1 << 30, 1 << 28, "output of a cell of 1073741824 bytes is above the cap of 268435456 bytes"),
    "output_bytes_per_s": (3 << 20, 1 << 20, "rate of output of 3145728 bytes/s is above the cap of 1048576 bytes/s"),
}


@pytest.mark.parametrize("name", [item.name for item in fields(Amounts)])
def test_what_is_above_a_cap_is_refused_with_the_cap_and_its_key(name):
    asked, cap, says = AMOUNTS[name]
    policy = parse(f"[sandbox]\n{name} = {cap}")
    wish = {name: asked} if name in ("memory_mib", "cpus") else {"limits": Limits(**{name: asked})}
    with pytest.raises(DeniedError) as caught:
        admit(policy, SandboxSpec(**wish))
    assert str(caught.value) == f"{says} (sandbox.{name} in {FILE})"
    assert "hyper policy" in caught.value.hint
    given = amounts_of(admit(policy, SandboxSpec()))
    assert 0 < getattr(given, name) <= cap, "a default is never above its cap"


def test_scratch_space_fits_into_the_memory():
    with pytest.raises(RequestError, match="scratch space of 600 MiB does not fit into the memory of 512 MiB"):
        admit(Policy(), SandboxSpec(limits=Limits(scratch_mib=600)))
    policy = parse("[default]\nscratch_mib = 900")
    assert admit(policy, SandboxSpec(memory_mib=1024)).limits.scratch_mib == 900
    assert admit(policy, SandboxSpec()).limits.scratch_mib == 512
    assert admit(parse("[sandbox]\nscratch_mib = 100"), SandboxSpec()).limits.scratch_mib == 100


def test_a_policy_that_changes_gives_new_defaults_and_keeps_what_was_asked_for():
    asked = SandboxSpec(memory_mib=1024, limits=Limits(processes=200))
    names = asked_of(asked)
    assert names == ("memory_mib", "processes")
    before = admit(Policy(), asked)
    later = parse("[default]\ncpus = 2\n[sandbox]\nwall_s = 60\nprocesses = 500\n")
    after = admit(later, only_asked(before, names))
    assert (after.memory_mib, after.cpus, after.limits.processes, after.limits.wall_s) == (1024, 2, 200, 60)
    with pytest.raises(DeniedError, match="number of processes of 200 is above the cap of 100"):
        admit(parse("[sandbox]\nprocesses = 100"), only_asked(before, names))


def test_the_weakest_isolation_goes_with_the_spec_as_long_as_the_policy_says_so():
    hardware = parse('[isolation]\ntier = "hardware"')
    spec = admit(hardware, SandboxSpec())
    assert spec.isolation == "hardware"
    assert admit(Policy(), only_asked(spec, asked_of(SandboxSpec()))).isolation == "software"
    strict = SandboxSpec(isolation="hardware")
    assert admit(Policy(), only_asked(admit(Policy(), strict), asked_of(strict))).isolation == "hardware"
    check_tier(hardware, Tier.HARDWARE, "KVM booted a guest")
    check_tier(Policy(), Tier.SOFTWARE, "")
    with pytest.raises(DeniedError) as caught:
        check_tier(hardware, Tier.SOFTWARE, "there is no /dev/kvm")
    assert str(caught.value) == (
        "this host isolates by software only (there is no /dev/kvm), and hardware is required "
        f"(isolation.tier in {FILE})"
    )
    assert "hyper doctor" in caught.value.hint


def test_trusted_output_and_files_are_only_as_policy_allows():
    trusted = SandboxSpec(kernel=KernelSpec(output="trusted"))
    with pytest.raises(DeniedError) as caught:
        admit(Policy(), trusted)
    assert str(caught.value) == "output=trusted is not allowed (output.trusted, by default)"
    with pytest.raises(DeniedError, match=f"output.trusted in {FILE}"):
        admit(parse("[output]\ntrusted = false"), trusted)
    assert admit(parse("[output]\ntrusted = true"), trusted).kernel.output == "trusted"
    closed = parse('[files]\nmodes = ["none"]')
    with pytest.raises(DeniedError, match="files=copy is not allowed") as caught:
        admit(closed, SandboxSpec(kernel=KernelSpec()))
    assert caught.value.hint == "set files to none"
    admit(closed, SandboxSpec(kernel=KernelSpec(files="none")))


def test_what_a_user_may_have_together():
    policy = parse("[user]\nsandboxes = 3\nmemory_mib = 1024\ncpu_s_per_day = 60")
    check_user(policy, UserFacts(sandboxes=2, memory_mib=512, cpu_s=59.9), 512)
    refusals = [
        (UserFacts(sandboxes=3), "3 sandboxes live, and the limit is 3 (user.sandboxes in"),
        (
            UserFacts(memory_mib=768),
            "memory of 512 MiB, with 768 MiB of sandboxes that live, is above the cap of 1024 MiB for all of a user's "
            "(user.memory_mib in",
        ),
        (UserFacts(cpu_s=60.5), "all of today's 60 s of processor time are used up (user.cpu_s_per_day in"),
    ]
    for facts, says in refusals:
        with pytest.raises(BusyError) as caught:
            check_user(policy, facts, 512)
        assert says in str(caught.value)
        assert caught.value.hint
    check_user(Policy(), UserFacts(sandboxes=MAX_LIVE - 1, memory_mib=1 << 30, cpu_s=1e9), 512)
    with pytest.raises(BusyError, match=rf"the limit is {MAX_LIVE} \(user.sandboxes, by default\)"):
        check_user(Policy(), UserFacts(sandboxes=MAX_LIVE), 512)


def test_a_filled_in_spec_survives_the_record():
    spec = admit(Policy(), SandboxSpec(limits=Limits(wall_s=5)))
    assert SandboxSpec.from_dict(spec.as_dict()) == spec
    assert asdict(spec.limits)["wall_s"] == 5
