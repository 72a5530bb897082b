"""Command lines of the image tools, and what is read from theirs."""

from pathlib import Path

import pytest

from hyper_kernel.errors import HostError
from hyper_kernel.host.command import CommandError, run_command
from hyper_kernel.host.packages import choose_missing, read_packages
from hyper_kernel.host.space import check_space
from hyper_kernel.oci.mmdebstrap import Bootstrap, argv, choose_archives, read_suite, split_list
from hyper_kernel.oci.umoci import as_root
from hyper_kernel.rootfs.image import hooks
from hyper_kernel.rootfs.recipe import find_recipes, read_recipe
from hyper_kernel.rootfs.wheels import pip_argv, place_of

LISTING = """\
http://mirror.example/debian/|bookworm|main|Debian
http://mirror.example/debian/|bookworm|contrib|Debian
http://mirror.example/debian/|bookworm-updates|main|Debian
http://mirror.example/debian-security/|bookworm-security|main|Debian
http://mirror.example/debian/|bookworm|main|Debian
http://mirror.example/debian/|trixie|main|Debian
https://third.example/|bookworm|main|Third Party
https://node.example/|nodistro|main|.
"""


def test_only_debians_own_archives_of_the_suite_are_chosen() -> None:
    assert choose_archives(LISTING, "bookworm") == (
        "deb http://mirror.example/debian/ bookworm main",
        "deb http://mirror.example/debian/ bookworm-updates main",
        "deb http://mirror.example/debian-security/ bookworm-security main",
    )


def test_bootstrap_is_one_command_line() -> None:
    config = Bootstrap(
        suite="bookworm",
        archives=("deb file:/mirror bookworm main",),
        apt_options=('Acquire::Retries "3"',),
        packages=("python3", "procps"),
        excludes=("/usr/share/man/*",),
        hooks=('rm "$1/x"',),
        output=Path("/tmp/layer.tar"),
    )
    assert argv(config) == [
        *("mmdebstrap", "--mode=unshare", "--variant=apt", "--format=tar", "--include=python3,procps"),
        *('--aptopt=Acquire::Retries "3"', "--dpkgopt=path-exclude=/usr/share/man/*", '--customize-hook=rm "$1/x"'),
        "--hook-dir=/usr/share/mmdebstrap/hooks/file-mirror-automount",
        *("bookworm", "/tmp/layer.tar", "deb file:/mirror bookworm main"),
    ]


def test_hooks_never_remove_what_is_the_hosts_while_they_run() -> None:
    """mmdebstrap binds the host's /dev, /proc and /sys, and keeps in /tmp what keeps its apt-get off the host."""
    removals = [hook for hook in hooks(Path("w.tar"), "3.11", read_recipe(find_recipes() / "python")) if "rm -" in hook]
    assert removals
    for word in " ".join(removals).replace('"', "").split():
        assert not word.startswith(("$1/dev", "$1/proc", "$1/sys", "$1/tmp", "$1/*", "/")), word
        assert word not in ("$1", "$1/")


def test_a_host_that_is_no_debian_is_told_so(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    assert read_suite(release) == "bookworm"
    release.write_text("ID=fedora\n")
    with pytest.raises(HostError, match="not a released Debian"):
        read_suite(release)


def test_an_ordinary_user_unpacks_in_a_user_namespace() -> None:
    assert as_root(["umoci"], uid=0) == ["umoci"]
    assert as_root(["umoci"], uid=1000) == ["unshare", "--map-root-user", "--map-auto", "umoci"]


def test_wheels_are_for_the_images_python_and_go_below_usr_local() -> None:
    command = pip_argv(["numpy==2.4.6"], "3.13", Path("/t"))
    assert {"--python-version=3.13", "--only-binary=:all:", "--no-deps", "--target=/t"} <= set(command)
    assert place_of(Path("bin/ipython"), "3.11") == "usr/local/bin/ipython"
    assert place_of(Path("share/jupyter/x"), "3.11") == "usr/local/share/jupyter/x"
    assert place_of(Path("numpy/__init__.py"), "3.11") == "usr/local/lib/python3.11/dist-packages/numpy/__init__.py"


def test_the_recipe_is_pinned_and_its_digest_follows_it() -> None:
    recipe = read_recipe(find_recipes() / "python")
    assert recipe.name == "hyper/python:latest" and "python3" in recipe.packages
    assert all("==" in line for line in recipe.requirements)
    assert {"ipykernel", "numpy", "pandas", "matplotlib", "ipywidgets", "psutil", "debugpy"} <= {
        line.split("==")[0] for line in recipe.requirements
    }
    assert recipe.digest("a") == recipe.digest("a") != recipe.digest("b")


def test_lists_have_comments() -> None:
    assert split_list("# one\na  # why\n\nb\n") == ("a", "b")


def test_missing_packages_are_those_dpkg_does_not_show_as_installed() -> None:
    needed = {"skopeo": "copies", "umoci": "unpacks", "uidmap": "maps"}
    assert choose_missing(needed, ["skopeo installed", "umoci config-files"]) == {"umoci": "unpacks", "uidmap": "maps"}
    assert all(read_packages().values()), "each package says why it is needed"


def test_a_failed_command_is_shown_with_its_last_words() -> None:
    with pytest.raises(CommandError, match="sh -c 'echo lost >&2; exit 3'\nended with 3:\nlost") as caught:
        run_command(["sh", "-c", "echo lost >&2; exit 3"], hint="look there")
    assert caught.value.hint == "look there" and caught.value.code == 3
    with pytest.raises(HostError, match="no-such-tool is not installed"):
        run_command(["no-such-tool"])


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    check_space(tmp_path, 1, what="a test")
    with pytest.raises(HostError, match=rf"a test needs {1 << 30} MiB in {tmp_path}, which has \d+ MiB free"):
        check_space(tmp_path, 1 << 50, what="a test")
