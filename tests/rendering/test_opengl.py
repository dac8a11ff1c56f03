"""What cannot draw is said before any work, by the variable or library at fault."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from geo4d_bench.rendering import opengl

HAS_OSMESA = any(map(opengl._loads, opengl._LIBRARIES["osmesa"][0]))
NOT_OURS = ("DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")


def run(variables: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in NOT_OURS} | variables
    code = "from geo4d_bench.cli import console; console()"
    return subprocess.run([sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MUJOCO_GL": "elg"}, "MUJOCO_GL is 'elg', expected egl, osmesa or glfw; unset it"),
        ({"MUJOCO_GL": "off"}, "MUJOCO_GL=off turns rendering off; unset it"),
        ({"MUJOCO_GL": "glfw"}, "MUJOCO_GL=glfw draws into a window of a screen, and DISPLAY is not set; unset it"),
        ({"MUJOCO_GL": "glfw", "DISPLAY": ":98"}, "and none answers at DISPLAY=:98; unset it"),
        pytest.param(
            {"MUJOCO_GL": "osmesa"}, "MUJOCO_GL=osmesa needs libOSMesa.so.8, which is not on this machine; on Debian: "
            "apt install libosmesa6, or unset MUJOCO_GL",
            marks=pytest.mark.skipif(HAS_OSMESA, reason="osmesa draws here"),
        ),
        ({"MUJOCO_EGL_DEVICE_ID": "abc"}, "MUJOCO_EGL_DEVICE_ID is 'abc', expected the number of one of "),
        ({"MUJOCO_EGL_DEVICE_ID": "99"}, "MUJOCO_EGL_DEVICE_ID is '99', expected the number of one of "),
        ({"MUJOCO_EGL_DEVICE_ID": ""}, "unset MUJOCO_EGL_DEVICE_ID: the first device that works is taken"),
        ({"PYOPENGL_PLATFORM": "glx"}, "PYOPENGL_PLATFORM=glx contradicts MUJOCO_GL=egl; unset PYOPENGL_PLATFORM"),
        ({"__EGL_VENDOR_LIBRARY_FILENAMES": "/no.json"}, "__EGL_VENDOR_LIBRARY_FILENAMES names /no.json, which does "),
        ({"MESA_GL_VERSION_OVERRIDE": "1.1", "LIBGL_ALWAYS_SOFTWARE": "1"}, "unset LIBGL_ALWAYS_SOFTWARE=1, MESA_GL"),
    ],
)  # fmt: skip
def test_the_variable_at_fault_is_named_before_anything_is_made(
    variables: dict[str, str], said: str, tmp_path: Path
) -> None:
    done = run({"MUJOCO_GL": "egl"} | variables, "datagen", "--episodes", "1", "--out", str(tmp_path / "out"))
    ours = [line for line in done.stderr.splitlines() if not line.startswith("libEGL warning")]
    assert done.returncode == 2, done.stderr
    assert len(ours) == 1, done.stderr
    assert ours[0].startswith("geo4d-bench datagen: no OpenGL context: ")
    assert said in ours[0]
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NOT_OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MUJOCO_GL", "egl")

    def none(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", none)
    said = str(opengl.no_context(ImportError("any")))
    assert "MUJOCO_GL=egl needs libEGL.so.1, which is not on this machine" in said
    assert said.endswith("on Debian: apt install libegl1 libgl1-mesa-dri")


def test_an_idle_gpu_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opengl, "renderer_name", lambda: "llvmpipe (LLVM 15) (MUJOCO_GL=egl)")
    monkeypatch.setattr(opengl, "GPU", tmp_path / "nvidiactl")
    assert opengl.idle_gpu() is None
    opengl.GPU.touch()
    opengl.require_opengl()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "OpenGL: llvmpipe (LLVM 15) (MUJOCO_GL=egl)"
    assert second.startswith("warning: there is an NVIDIA GPU, but the processor draws")
    monkeypatch.setenv("LIBGL_ALWAYS_SOFTWARE", "1")
    assert "unset" in str(opengl.idle_gpu())
    monkeypatch.setattr(opengl, "renderer_name", lambda: "NVIDIA H100/PCIe")
    assert opengl.idle_gpu() is None
