"""Index files and label files with anything in them: read, or refused in words for users."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dali_pipelines import index_file
from dali_pipelines.errors import DataError
from dali_pipelines.labels import read_labels
from tests.fuzzing import damage, damaged, fuzz

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name in ("ape/1.png", "ape/2.png", "cat/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("L", (3, 2)).save(folder / name)
    index_file.open_index(folder)
    return folder


MADE_FROM = index_file._made_from(None, None)


def loaded(file: Path, root: Path, content: bytes) -> Any:
    """The index in a file of this content, or None; what is believed cannot lead out of the folder."""
    file.write_bytes(content)
    index = index_file._load(file, root, MADE_FROM)
    if index is not None:
        for sample in range(len(index)):
            assert index.path(sample).resolve().is_relative_to(root)
            assert 0 <= index.labels[sample] < len(index.class_names)
    return index


def test_the_undamaged_index_is_read(root, scratch):
    assert len(loaded(scratch / "index", root, (root / ".image-index.npz").read_bytes())) == 3


@fuzz(150)
@given(changes=damage)
def test_a_damaged_index_is_believed_only_where_it_stays_in_its_folder(root, scratch, changes):
    loaded(scratch / "index", root, damaged((root / ".image-index.npz").read_bytes(), changes))


@fuzz(100)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_no_index(root, scratch, content):
    assert loaded(scratch / "index", root, content) is None


JSON = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@fuzz(100)
@given(
    about=JSON | st.dictionaries(st.sampled_from(["made_from", "class_names", "stamps", "digest"]), JSON),
    paths=st.lists(
        st.sampled_from([b"ape/1.png", b"/etc/passwd", b"..", b"a/../b", b"", b"\xff", b"a\0b"]), max_size=4
    ),
    labels=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    sizes=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8),
)
def test_any_content_of_an_index_is_believed_only_where_it_stays_in_its_folder(
    root, scratch, about, paths, labels, sizes
):
    known = {"made_from": MADE_FROM, "class_names": ["ape", "cat"], "stamps": {}, "digest": ""}
    about = known | about if isinstance(about, dict) else about
    content = io.BytesIO()
    arrays = {
        "about": np.frombuffer(json.dumps(about).encode("utf-8", "replace"), dtype=np.uint8),
        "paths": np.frombuffer(b"".join(path + b"\0" for path in paths), dtype=np.uint8),
        "labels": np.array(labels, dtype=np.int64),
        "sizes": np.array(sizes, dtype=np.int32),
    }
    np.savez(content, **arrays)
    loaded(scratch / "index", root, content.getvalue())


def test_an_index_that_claims_to_be_huge_is_refused_in_little_memory(root, scratch):
    with zipfile.ZipFile(io.BytesIO((root / ".image-index.npz").read_bytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i4", "fortran_order": False, "shape": (2**40, 2)})
    members["sizes.npy"] = header.getvalue()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    tracemalloc.start()
    assert loaded(scratch / "index", root, content.getvalue()) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


LINES = st.sampled_from(
    ["a.png ape", "b.png\tcat", "c.png,ape", "ape", "0", "a 1", "b -1", "a ²", "a " + "9" * 5000, "a ٣"]
)


@fuzz(120)
@given(
    content=st.binary(max_size=80)
    | st.lists(LINES | st.text(max_size=10), max_size=6).map(lambda lines: "\n".join(lines).encode("utf-8", "replace")),
    classes=st.none() | st.just(["ape", "cat"]),
)
def test_any_label_file_is_read_or_refused(scratch, content, classes):
    file = scratch / "labels.txt"
    file.write_bytes(content)
    try:
        labels, names = read_labels(file, ["a.png", "b.png", "c.png"], classes)
    except DataError as error:
        refusal = str(error)
    else:
        refusal = f"{file}"
        assert len(labels) == 3
        assert 0 <= labels.min() <= labels.max() < len(names)
    assert refusal.startswith(str(file))
    assert "\n" not in refusal
    assert len(refusal) < 1000


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("--1", "--1 is none of the 2 classes"),
        ("9" * 5000, f"{'9' * 80} is none of the 2"),
        ("٣", "٣ is none of the 2"),
    ],
)
def test_a_label_that_only_looks_like_a_number_is_refused(scratch, label, said):
    file = scratch / "labels.txt"
    file.write_text(f"a.png {label}\n", encoding="utf-8")
    with pytest.raises(DataError) as refused:
        read_labels(file, ["a.png"], ["ape", "cat"])
    assert said in str(refused.value)


def test_a_line_of_blanks_takes_no_time(scratch):
    file = scratch / "labels.txt"
    file.write_text("a" + " " * 300_000 + "b c\n")  # hours, where every blank is tried as the beginning of the last gap
    with pytest.raises(DataError, match="no line names the image"):
        read_labels(file, ["x.png"], ["b", "c"])
