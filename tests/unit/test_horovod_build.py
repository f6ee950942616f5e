"""The mends of Horovod's source and the choices of its build; the build itself is what `make setup` does."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

import build_horovod
from build_horovod import LackingError, build_settings, cache_key, cuda_version, nccl_settings, require_compiler
from horovod_mends import MENDS, Mend, MendError, local_version, mend_source, mended, mends_digest

pytestmark = pytest.mark.unit

MEND = Mend("a name", "some/file.cc", "  reserve(size);\n", "  resize(size);\n")


def source_with_all_old_texts(root: Path) -> Path:
    """A source tree in which every mend finds its text, between other text."""
    for path in {mend.path for mend in MENDS}:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        texts = [mend.old for mend in MENDS if mend.path == path]
        (root / path).write_text("before\n" + "between\n".join(texts) + "after\n")
    return root


def test_a_mend_changes_its_text_and_nothing_else():
    assert mended("one\n  reserve(size);\ntwo\n", MEND) == "one\n  resize(size);\ntwo\n"


@pytest.mark.parametrize(("text", "times"), [("", 0), (MEND.old * 2, 2)])
def test_a_mend_that_does_not_match_exactly_once_names_itself_and_the_file(text, times):
    with pytest.raises(MendError, match=rf"'a name'.*stands {times} times in some/file\.cc"):
        mended(text, MEND)


def test_a_mend_of_a_missing_file_names_itself_and_the_file(tmp_path):
    with pytest.raises(MendError, match=r"'a name'.*no file some/file\.cc"):
        mend_source(tmp_path, [MEND])


def test_all_mends_are_applied_to_a_source_tree(tmp_path):
    mend_source(source_with_all_old_texts(tmp_path))
    for mend in MENDS:
        assert mend.new in (tmp_path / mend.path).read_text()


def test_a_mend_leaves_the_text_of_the_others_alone(tmp_path):
    reversed_order = source_with_all_old_texts(tmp_path / "reversed")
    mend_source(reversed_order, MENDS[::-1])
    mend_source(source_with_all_old_texts(tmp_path / "forward"))
    for mend in MENDS:
        assert (reversed_order / mend.path).read_text() == (tmp_path / "forward" / mend.path).read_text()


def test_every_change_of_a_mend_makes_another_build():
    altered = [*MENDS[:-1], replace(MENDS[-1], new="GRACEFUL_TERMINATION_TIME_S = 61\n")]
    assert mends_digest(altered) != mends_digest(MENDS)
    assert mends_digest(MENDS[:-1]) != mends_digest(MENDS)


def test_a_mended_build_says_so_in_its_version():
    version = Version(f"0.28.1+{local_version()}")
    assert version > Version("0.28.1")
    assert str(version) == f"0.28.1+{local_version()}", "the version is in its normal form, as file names need it"
    assert version.local.startswith("mended.")


def test_a_wheel_is_reused_only_for_the_same_torch_python_platform_and_settings():
    key = ("2.13.0+cpu", "cpython-311", "linux-x86_64", {"HOROVOD_WITH_GLOO": "1"})
    assert cache_key(*key) == cache_key(*key)
    others = [
        ("2.14.0+cpu", *key[1:]),
        (key[0], "cpython-312", *key[2:]),
        (*key[:2], "linux-aarch64", key[3]),
        (*key[:3], {"HOROVOD_WITH_GLOO": "1", "HOROVOD_WITH_MPI": "1"}),
        (*key[:3], {"HOROVOD_WITH_GLOO": "1", "HOROVOD_GPU_OPERATIONS": "NCCL"}),
    ]
    assert len({cache_key(*other) for other in (key, *others)}) == 6


def test_a_cpu_torch_gets_gloo_alone():
    settings = build_settings(None, {"PATH": "/usr/bin"})
    assert settings["HOROVOD_WITH_GLOO"] == "1"
    assert settings["HOROVOD_WITHOUT_MPI"] == "1"
    assert "HOROVOD_GPU_OPERATIONS" not in settings


def test_horovods_own_variables_go_before_ours():
    settings = build_settings(None, {"HOROVOD_WITH_MPI": "1", "HOROVOD_WITH_TENSORFLOW": "1"})
    assert "HOROVOD_WITHOUT_MPI" not in settings
    assert settings["HOROVOD_WITH_TENSORFLOW"] == "1"


def test_variables_for_running_jobs_do_not_make_another_build():
    assert build_settings(None, {"HOROVOD_STALL_CHECK_TIME_SECONDS": "5"}) == build_settings(None, {})


def toolkit(root: Path, version: int) -> Path:
    """As much of a CUDA toolkit as tells its version."""
    (root / "include").mkdir(parents=True)
    (root / "include" / "cuda.h").write_text(f"#define CUDA_VERSION {version}\n")
    return root


def test_a_cuda_torch_with_toolkit_and_nccl_gets_nccl(tmp_path):
    home = str(toolkit(tmp_path / "cuda", 13000))
    settings = build_settings("13.0", {"CUDA_HOME": home, "HOROVOD_NCCL_HOME": "/opt/nccl"})
    assert settings["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert settings["HOROVOD_CUDA_HOME"] == home


def test_a_toolkit_of_another_cuda_than_torchs_is_refused(tmp_path):
    home = toolkit(tmp_path / "cuda", 12060)
    assert cuda_version(home) == "12.6"
    with pytest.raises(LackingError, match=r"CUDA 13\.0, but .* is 12\.6: install the toolkit 13\.0"):
        build_settings("13.0", {"CUDA_HOME": str(home)})


def test_torchs_nccl_gets_the_name_that_a_linker_looks_for(tmp_path):
    (tmp_path / "nccl" / "lib").mkdir(parents=True)
    (tmp_path / "nccl" / "lib" / "libnccl.so.2").write_bytes(b"library")
    settings = nccl_settings(tmp_path / "nccl", tmp_path / "links")
    assert (Path(settings["HOROVOD_NCCL_LIB"]) / "libnccl.so").read_bytes() == b"library"


def test_without_a_compiler_the_message_says_how_to_get_one(tmp_path):
    with pytest.raises(LackingError, match=r"apt-get install g\+\+"):
        require_compiler({"PATH": str(tmp_path)})


def test_a_compiler_named_in_cxx_is_the_one_looked_for(tmp_path):
    with pytest.raises(LackingError, match="no C\\+\\+ compiler \\(no-such-compiler\\)"):
        require_compiler({"PATH": os.defpath, "CXX": "no-such-compiler -O2"})


def test_missing_things_end_with_their_own_exit_status(monkeypatch, tmp_path, capsys):
    """Setup goes on without Horovod on this status, and on this one alone."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build_horovod.main(["--cache", str(tmp_path / "cache")]) == build_horovod.LACKING
    said = capsys.readouterr()
    assert said.out == ""
    assert "install" in said.err
