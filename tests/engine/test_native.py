import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from verydeep.engine import interface, native
from verydeep.engine.native import Library, UnusableError
from verydeep.errors import UserError

CC = shutil.which("cc")
needs_compiler = pytest.mark.skipif(CC is None, reason="there is no C compiler")
FILES = {name: file for name in native.runnable_here() if (file := native._file(name))}
needs_library = pytest.mark.skipif(not FILES, reason="built without a C++ compiler")
ASKED = Path(os.environ.get(native.VARIABLE) or "")


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    """Choose the library again in each test, with the environment variable unset."""
    monkeypatch.delenv(native.VARIABLE, raising=False)
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def found_only(monkeypatch, **files):
    """Pretend that only these libraries were built."""
    monkeypatch.setattr(native, "_file", files.get)


def warned():
    with pytest.warns(UserWarning, match="the convolution engine") as found:
        library = native.library()
    return library, str(found[0].message)


def library_of(folder, code):
    """Compile this C code to a library."""
    source, file = folder / "other.c", folder / "other.so"
    source.write_text(code)
    subprocess.run([CC, "-shared", "-fPIC", source, "-o", file], check=True)
    return file


def in_c(text):
    return '"' + text.replace("\n", "\\n") + '"'


@needs_library
@pytest.mark.parametrize("name", FILES)
def test_each_library_describes_the_structures_as_python_does(name):
    assert Library(name, FILES[name]).name == name


def test_a_misspelt_field_is_an_error():
    with pytest.raises(AttributeError):
        interface.Convolution(wdith=3)


@needs_compiler
def test_a_library_with_another_abi_number_is_refused(tmp_path):
    file = library_of(tmp_path, f"long long verydeep_abi(void) {{ return {interface.ABI + 1}; }}")
    with pytest.raises(UnusableError, match=rf"ABI number {interface.ABI + 1}, not {interface.ABI}"):
        Library("other", file)


@needs_compiler
def test_a_library_with_other_structures_is_refused(tmp_path):
    other = interface.description().replace("images integer 40", "pictures integer 40")
    code = f"long long verydeep_abi(void) {{ return {interface.ABI}; }}"
    code += f"const char* verydeep_description(void) {{ return {in_c(other)}; }}"
    with pytest.raises(UnusableError, match=r"other structures \(Convolution"):
        Library("other", library_of(tmp_path, code))


@needs_compiler
def test_a_library_without_a_function_is_refused(tmp_path):
    code = f"long long verydeep_abi(void) {{ return {interface.ABI}; }}"
    code += f"const char* verydeep_description(void) {{ return {in_c(interface.description())}; }}"
    with pytest.raises(UnusableError, match="has no function verydeep_convolve"):
        Library("other", library_of(tmp_path, code))


def test_a_library_that_cannot_be_loaded_is_said_with_the_loaders_words(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    found_only(monkeypatch, plain=broken)
    library, message = warned()
    assert library is None
    with pytest.raises(OSError, match=r"broken\.so") as loader:
        native.ctypes.CDLL(str(broken))
    assert f"cannot be loaded: {loader.value}" in message
    assert "torch's slower convolutions" in message


@needs_library
def test_what_is_wrong_with_the_best_library_is_said_where_another_is_used(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    found_only(monkeypatch, avx512=broken, plain=FILES["plain"])
    library, message = warned()
    assert library.name == "plain"
    assert "cannot be loaded" in message
    assert "its library plain" in message


def test_libraries_for_other_processors_are_said(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    found_only(monkeypatch, avx512=Path("_avx512.so"), avx2=Path("_avx2.so"))
    library, message = warned()
    assert library is None
    assert "was built only for avx512 and avx2, and this processor runs plain" in message


def test_why_nothing_was_built_is_said(monkeypatch, tmp_path):
    found_only(monkeypatch)
    monkeypatch.setattr(native, "NOTE", tmp_path / "note.txt")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "there is no C++ compiler" in warned()[1]
    native.library.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/c++")
    assert "there is a C++ compiler now (/usr/bin/c++)" in warned()[1]
    native.library.cache_clear()
    native.NOTE.write_text("_plain.so: error: expected ';'\n_avx2.so: the same\n")
    message = warned()[1]
    assert "_plain.so: error: expected ';'" in message
    assert "compiler now" not in message


def test_where_the_engine_is_required_none_is_an_error(monkeypatch):
    monkeypatch.setenv(native.VARIABLE, "required")
    found_only(monkeypatch)
    with pytest.raises(UserError, match="VERYDEEP_ENGINE is 'required', but the convolution engine was not built"):
        native.library()


@needs_library
def test_the_best_library_is_used_without_a_word(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for wanted in ("auto", "required"):
            monkeypatch.setenv(native.VARIABLE, wanted)
            native.library.cache_clear()
            assert native.library().name == next(iter(FILES))


@needs_library
def test_a_library_may_be_named_or_given_as_a_path(monkeypatch, tmp_path):
    for wanted, name in (("plain", "plain"), (str(FILES["plain"]), FILES["plain"].stem)):
        monkeypatch.setenv(native.VARIABLE, wanted)
        native.library.cache_clear()
        assert native.library().name == name
    monkeypatch.setenv(native.VARIABLE, str(tmp_path / "none.so"))
    native.library.cache_clear()
    with pytest.raises(UserError, match=r"VERYDEEP_ENGINE is '.*none\.so', but that library cannot be loaded"):
        native.library()


def test_the_engine_can_be_turned_off():
    code = "from verydeep.engine import native; print(native.library())"
    environment = os.environ | {native.VARIABLE: "off"}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "None"


def test_an_unknown_library_is_refused(monkeypatch):
    monkeypatch.setenv(native.VARIABLE, "avx1024")
    with pytest.raises(UserError, match=r"VERYDEEP_ENGINE is 'avx1024'; use .*auto, required, off"):
        native.library()


@pytest.mark.skipif(not ASKED.is_file(), reason="only `make sanitize` builds a library with assertions")
def test_assertions_of_a_debug_build_stop_what_breaks_a_promise():
    code = f"""
from pathlib import Path
from verydeep.engine import interface, native
library = native.Library("debug", Path({str(ASKED.absolute())!r}))
library.call("convolve", interface.Convolution(images=1, height=4, width=4, out=1, **{{"in": 1}}))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "verydeep's engine expects c.x != nullptr" in ended.stderr
