"""A file is whole or it is not there."""

from __future__ import annotations

import errno
import os

import pytest

from dmpo.errors import OutputError
from dmpo.files import append_line, filling, replace_text


@pytest.fixture
def small_disk(tmp_path, file_size_limit):
    file_size_limit(64)
    return tmp_path


def test_replaced_text_is_read_back_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "a.txt"
    replace_text(path, "äöü\n")
    replace_text(path, "second\n")
    assert path.read_text(encoding="utf-8") == "second\n"
    assert os.listdir(path.parent) == ["a.txt"]


def test_old_text_stays_when_the_new_one_does_not_fit(small_disk):
    path = small_disk / "a.txt"
    replace_text(path, "old\n")
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written: File too large\."):
        replace_text(path, "x" * 100)
    assert path.read_text() == "old\n"
    assert os.listdir(small_disk) == ["a.txt"]


def test_appended_lines_follow_each_other(tmp_path):
    path = tmp_path / "a.jsonl"
    append_line(path, "1")
    append_line(path, "ä")
    assert path.read_text(encoding="utf-8") == "1\nä\n"


def test_line_that_does_not_fit_leaves_the_lines_before_it(small_disk):
    path = small_disk / "a.jsonl"
    append_line(path, "x" * 40)
    with pytest.raises(OutputError, match="cannot be written"):
        append_line(path, "y" * 40)
    assert path.read_text() == "x" * 40 + "\n"


def test_missing_place_is_said_with_the_systems_reason(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=os.strerror(errno.ENOTDIR)):
        append_line(tmp_path / "file" / "a.jsonl", "1")


def test_folder_is_filled_whole_and_keeps_its_other_files(tmp_path):
    (tmp_path / "other").write_text("stays")
    with filling(tmp_path) as folder:
        (folder / "a").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "other": "stays",
        "a": "new",
    }


def test_folder_that_cannot_be_filled_stays_as_it_was(small_disk):
    (small_disk / "a").write_text("old")

    def fill():
        with filling(small_disk) as folder:
            (folder / "a").write_text("new")
            (folder / "b").write_text("x" * 100)

    with pytest.raises(OutputError, match="cannot be written: File too large"):
        fill()
    assert os.listdir(small_disk) == ["a"]
    assert (small_disk / "a").read_text() == "old"
