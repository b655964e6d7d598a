"""Every file that ships is named in CMake, and CMake puts it where Slicer finds and imports it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from Testing.paths import ROOT

ROOMS = ("DeepRegSlicer", "Resources")  # RegCore is found by its endings, not named file by file
MODULES = "lib/Slicer/qt-scripted-modules"

# What a build of Slicer offers to an extension, as far as this extension asks for it.
SLICER_CONFIG = """
set(Slicer_USE_PYTHONQT ON)
set(Slicer_QTSCRIPTEDMODULES_LIB_DIR @modules@)
set(Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR @modules@)
set(Slicer_USE_FILE ${CMAKE_CURRENT_LIST_DIR}/use.cmake)
set(Slicer_EXTENSION_GENERATE_CONFIG ${CMAKE_CURRENT_LIST_DIR}/end.cmake)
set(Slicer_EXTENSION_CPACK ${CMAKE_CURRENT_LIST_DIR}/end.cmake)
"""
STAND_IN = """
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(GIVEN "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(GIVEN_UNPARSED_ARGUMENTS OR NOT GIVEN_NAME OR NOT GIVEN_SCRIPTS)
    message(FATAL_ERROR "bad call: ${ARGN}")
  endif()
  set(place ${Slicer_INSTALL_QTSCRIPTEDMODULES_LIB_DIR})
  if(GIVEN_WITH_SUBDIR)
    get_filename_component(folder ${CMAKE_CURRENT_SOURCE_DIR} NAME)
    string(APPEND place "/${folder}")
  endif()
  foreach(file IN LISTS GIVEN_SCRIPTS GIVEN_RESOURCES)
    if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file})
      message(FATAL_ERROR "${GIVEN_NAME} names ${file}, which is not there")
    endif()
    get_filename_component(folder ${file} DIRECTORY)
    install(FILES ${file} DESTINATION ${place}/${folder})
  endforeach()
endfunction()
"""
# Slicer's own macro, from copies of the sources of Slicer and CTK that the environment names.
REAL = """
set(CTK_CMAKE_DIR $ENV{CTK_SOURCE}/CMake)
list(APPEND CMAKE_MODULE_PATH $ENV{SLICER_SOURCE}/CMake ${CTK_CMAKE_DIR})
set(PYTHONINTERP_FOUND ON)
set(PYTHONLIBS_FOUND ON)
set(PYTHON_EXECUTABLE @python@)
set(PYTHON_LIBRARIES python3)
include(${CTK_CMAKE_DIR}/ctkFunctionExtractOptimizedLibrary.cmake)
include(${CTK_CMAKE_DIR}/ctkMacroCompilePythonScript.cmake)
include(SlicerMacroBuildScriptedModule)
"""


def shipped(room: str) -> set[str]:
    """Files of a top folder that belong into the extension, as paths below it."""
    kinds = {".py", ".typed", ".ui", ".png", ".svg", ".yaml", ".html", ".txt", ".json", ".pt", ".npz"}
    found = (path.relative_to(ROOT / room) for path in (ROOT / room).rglob("*") if path.suffix in kinds)
    return {p.as_posix() for p in found if "__pycache__" not in p.parts and p.name != "CMakeLists.txt"}


def named(room: str) -> set[str]:
    """Files that a top folder's CMakeLists.txt names."""
    text = re.sub(r"#.*", "", (ROOT / room / "CMakeLists.txt").read_text(encoding="utf-8"))
    lists = re.findall(r"set\(MODULE_PYTHON_(?:SCRIPTS|RESOURCES)([^)]*)\)", text)
    return set(" ".join(lists).split())


@pytest.mark.parametrize("room", ROOMS)
def test_cmake_names_every_file_that_ships_and_no_other(room):
    assert sorted(shipped(room) - named(room)) == [], f"add them to {room}/CMakeLists.txt"
    assert sorted(named(room) - shipped(room)) == [], f"take them out of {room}/CMakeLists.txt"


@pytest.fixture(scope="module", params=["stand-in", "Slicer's own macro"])
def installed(request, tmp_path_factory) -> Path:
    """The folder of scripted modules after CMake configured, built and installed the extension."""
    if shutil.which("cmake") is None or shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("cmake, make or a compiler is not on this machine")
    real = request.param != "stand-in"
    if real and not {"SLICER_SOURCE", "CTK_SOURCE"} <= set(os.environ):
        pytest.skip("SLICER_SOURCE and CTK_SOURCE do not name copies of the sources of Slicer and CTK")
    base = tmp_path_factory.mktemp("cmake")
    stub = base / "slicer"
    stub.mkdir()
    config = (SLICER_CONFIG + (REAL if real else STAND_IN)).replace("@modules@", MODULES)
    (stub / "SlicerConfig.cmake").write_text(config.replace("@python@", sys.executable))
    (stub / "use.cmake").write_text("")
    (stub / "end.cmake").write_text("")
    options = [f"-DSlicer_DIR={stub}", "-DBUILD_TESTING=OFF", "-G", "Unix Makefiles"]
    run("cmake", "-S", ROOT, "-B", base / "build", *options)
    run("cmake", "--build", base / "build")
    run("cmake", "--install", base / "build", "--prefix", base / "installed")
    return base / "installed" / MODULES


def run(*command) -> None:
    """Run a program that must succeed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_module_stands_at_module_level(installed):
    assert sorted(path.name for path in installed.glob("*.py")) == ["DeepRegSlicer.py"]


def test_every_shipped_file_is_installed(installed):
    expected = {f"RegCore/{name}" for name in shipped("RegCore")}
    expected |= {f"Resources/{name}" for name in shipped("Resources")}
    expected |= shipped("DeepRegSlicer")
    found = {path.relative_to(installed).as_posix() for path in installed.rglob("*.*") if path.is_file()}
    found = {name for name in found if not name.endswith(".pyc")}
    assert found == expected


def test_the_installed_package_is_importable_and_is_the_one_imported(installed):
    code = "import RegCore; print(RegCore.__file__); print(RegCore.make_phantom.__module__)"
    # -S keeps the working copy, in whatever way it was installed, out of sight.
    paths = [str(installed), *(path for path in sys.path if path.endswith("site-packages"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=installed, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(installed / "RegCore" / "__init__.py"), "RegCore.samples.phantom"]


def description() -> dict[str, str]:
    """The lines of DeepRegSlicer.s4ext."""
    lines = (ROOT / "DeepRegSlicer.s4ext").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def test_the_three_descriptions_of_the_extension_agree():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    cmake = dict(re.findall(r'set\(EXTENSION_(\w+) "?([^")]*)"?\)', text))
    s4ext = description()
    keys = "homepage category contributors description iconurl screenshoturls status depends enabled"
    for key in [*keys.split(), "build_subdirectory"]:
        assert s4ext[key] == cmake[key.upper()], key
    entry = json.loads((ROOT / "DeepRegSlicer.json").read_text(encoding="utf-8"))
    assert set(entry) >= {"$schema", "category", "scm_url"}
    assert entry["scm_url"] == s4ext["scmurl"] and entry["scm_revision"] == s4ext["scmrevision"]
    assert entry["category"] == s4ext["category"] and entry["build_dependencies"] == [s4ext["depends"]]
    assert entry["build_subdirectory"] == s4ext["build_subdirectory"] and entry["enabled"] is True


def test_the_repository_is_called_as_the_extensions_index_wants_it():
    """Its check: the name of the git repository begins with Slicer; that of the extension need not."""
    url = json.loads((ROOT / "DeepRegSlicer.json").read_text(encoding="utf-8"))["scm_url"]
    name = url.rsplit("/", 1)[1].removesuffix(".git")
    assert name == "SlicerDeepReg"
    for key in ("homepage", "iconurl", "screenshoturls"):
        assert f"/{name}" in description()[key]
    assert "## How to cite" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_pictures_of_the_description_are_in_the_repository():
    for key in ("iconurl", "screenshoturls"):
        path = ROOT / description()[key].split("/main/", 1)[1]
        assert path.is_file(), f"{key} names {path.relative_to(ROOT)}, which is not there"
