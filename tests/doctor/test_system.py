from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmpo.doctor.base import Check, readable_bytes
from dmpo.doctor.kernels import Trial
from dmpo.doctor.system import file_system, free_bytes, read_system, system_checks
from tests.doctor.facts import GIB, system


def check(name: str, sandbox: Trial | None = None, **changes: Any) -> Check:
    (found,) = [each for each in system_checks(system(**changes), sandbox) if each.name == name]
    return found


@pytest.mark.parametrize(
    ("free", "state"), [(100 * GIB, "ok"), (2 * GIB, "warning"), (2**20, "failed")]
)
def test_a_disk_that_fills_up_is_told_before_it_stops_a_run(free: int, state: str) -> None:
    found = check("current folder", folder_free=free)
    assert (found.state, found.is_needed) == (state, True)


def test_a_folder_that_may_not_be_written_to_fails() -> None:
    found = check("current folder", is_writable=False)
    assert (found.state, found.detail) == ("failed", "/work, may not be written to")


def test_another_encoding_than_utf8_is_a_warning() -> None:
    found = check("encoding", encoding="ANSI_X3.4-1968")
    assert (found.state, found.fix) == ("warning", "export PYTHONUTF8=1")


def test_the_shared_memory_of_a_container_is_a_warning() -> None:
    found = check("/dev/shm", shared=64 * 2**20)
    assert (found.state, found.fix) == ("warning", "docker run --shm-size=8g")


@pytest.mark.parametrize(("limit", "state"), [(256, "warning"), (65536, "ok"), (-1, "ok")])
def test_few_open_files_are_a_warning(limit: int, state: str) -> None:
    assert check("open files", open_files=limit).state == state


def test_what_a_system_does_not_have_is_left_out() -> None:
    names = [each.name for each in system_checks(system(shared=None, open_files=None), None)]
    assert names == ["current folder", "encoding"]


@pytest.mark.parametrize(("by_kernel", "state"), [(True, "ok"), (False, "warning")])
def test_a_sandbox_without_the_kernels_filter_is_a_warning(by_kernel: bool, state: str) -> None:
    values = {"by_kernel": by_kernel}
    trial = Trial(name="sandbox", state="ok", detail="held", values=values)
    assert check("sandbox of code tasks", trial).state == state


def test_the_file_system_is_that_of_the_deepest_mount() -> None:
    mounts = [
        "/dev/sda1 / ext4 rw 0 0",
        "host:/home /home nfs4 rw 0 0",
        "tmpfs /homely tmpfs rw 0 0",
    ]
    assert file_system(Path("/home/me/not there"), mounts) == "nfs4"
    assert file_system(Path("/var"), mounts) == "ext4"
    assert file_system(Path("/var"), []) == ""


def test_room_is_that_of_the_place_that_is_there(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0


def test_this_system_can_be_read() -> None:
    facts = read_system()
    assert facts.folder == str(Path.cwd())
    assert facts.folder_free is not None


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 * GIB, "200 GiB")]
)
def test_bytes_are_said_as_people_do(count: int, text: str) -> None:
    assert readable_bytes(count) == text
