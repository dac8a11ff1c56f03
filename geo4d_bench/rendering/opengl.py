"""Whether this machine draws: a tiny OpenGL context, and the variable or library at fault where there is none."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from geo4d_bench.errors import SceneError
from geo4d_bench.process import GPU

_OFF = ("disable", "disabled", "off", "false", "0")
_WINDOW = ("glfw", "glx", "enable", "enabled", "on", "true", "1", "")  # what MuJoCo takes for GLFW
_LIBRARIES = {
    "egl": (("libEGL.so.1", "libEGL.so"), "libegl1 libgl1-mesa-dri"),
    "osmesa": (("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"), "libosmesa6"),
}
_PATHS = ("__EGL_VENDOR_LIBRARY_FILENAMES", "__EGL_VENDOR_LIBRARY_DIRS", "LIBGL_DRIVERS_PATH")
_PREFIXES = ("EGL_", "GALLIUM_", "LIBGL_", "MESA_", "__EGL_", "__GLX_", "MUJOCO_EGL_", "PYOPENGL_")
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software rasterizer")


def import_mujoco() -> Any:
    """The module; SceneError where it cannot be imported, for it loads the OpenGL that MUJOCO_GL names."""
    try:
        import mujoco
    except (AttributeError, RuntimeError) as error:  # of MuJoCo and PyOpenGL, whose ImportErrors MuJoCo hides
        raise no_context(error) from error
    # A context that could not be made is deleted, too, and its destructor reads this.
    if hasattr(mujoco, "GLContext"):
        mujoco.GLContext._context = None
    return mujoco


def require_opengl() -> None:
    """Say on stderr what draws, before any work that needs it.

    Raises:
        SceneError: nothing does; names the variable or the library at fault.
    """
    print(f"OpenGL: {renderer_name()}", file=sys.stderr)
    if idle := idle_gpu():
        print(f"warning: {idle}", file=sys.stderr)


@functools.cache
def renderer_name() -> str:
    """What OpenGL calls the GPU or program that draws here; SceneError as :func:`require_opengl`."""
    mujoco = import_mujoco()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GLFW's, of which the error below tells more
            context = mujoco.GLContext(8, 8)
            context.make_current()
            from OpenGL import GL

            found = GL.glGetString(GL.GL_RENDERER)
        drawn = mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
        drawn.free()
        context.free()
    except Exception as error:  # each library has types of its own
        raise no_context(error) from error
    return f"{found.decode(errors='replace')} (MUJOCO_GL={os.environ['MUJOCO_GL']})"


def idle_gpu() -> str | None:
    """What to do where a program draws although there is a GPU; else None."""
    if not GPU.exists() or not renderer_name().lower().startswith(_SOFTWARE):
        return None
    variables = _variables()
    do = (
        f"unset {', '.join(variables)}"
        if variables
        else "install the driver's OpenGL (Debian: libnvidia-egl-gbm1 or libnvidia-gl-VERSION; containers: "
        "NVIDIA_DRIVER_CAPABILITIES=all)"
    )
    return f"there is an NVIDIA GPU, but the processor draws ({renderer_name()}), much slower: {do}"


def no_context(error: Exception) -> SceneError:
    """The sentence for an OpenGL context, or a MuJoCo, that raised ``error``."""
    fault, do = _fault()
    first = (str(error).splitlines() or [""])[0].rstrip(".")
    return SceneError(f"no OpenGL context: {fault or f'{type(error).__name__}: {first}'}; {do}")


def _fault() -> tuple[str, str]:
    """What is wrong, empty where that is not known, and what to do."""
    named = os.environ.get("MUJOCO_GL", "")
    chosen = named.lower().strip()
    default = "unset it: 'egl', for the GPU or for Mesa without a screen, is the default"
    if chosen in _OFF:
        return f"MUJOCO_GL={named} turns rendering off", default
    if chosen not in (*_LIBRARIES, *_WINDOW):
        return f"MUJOCO_GL is '{named}', expected egl, osmesa or glfw", default
    if chosen in _WINDOW:
        screen = [f"{n}={os.environ[n]}" for n in ("DISPLAY", "WAYLAND_DISPLAY") if os.environ.get(n)]
        state = f"none answers at {' or '.join(screen)}" if screen else "DISPLAY is not set"
        return f"MUJOCO_GL={named} draws into a window of a screen, and {state}", default
    platform = os.environ.get("PYOPENGL_PLATFORM", "")
    if platform.lower() not in ("", chosen):
        return f"PYOPENGL_PLATFORM={platform} contradicts MUJOCO_GL={named}", "unset PYOPENGL_PLATFORM"
    libraries, packages = _LIBRARIES[chosen]
    install = f"on Debian: apt install {packages}"
    if not any(map(_loads, libraries)):
        other = ", or unset MUJOCO_GL" if chosen != "egl" else ""
        return f"MUJOCO_GL={named} needs {libraries[0]}, which is not on this machine", install + other
    for name in _PATHS:
        if paths := [p for p in os.environ.get(name, "").split(":") if p and not Path(p).exists()]:
            return f"{name} names {paths[0]}, which does not exist", f"unset {name}, or name what is there"
    index = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    if chosen == "egl" and index is not None:
        return _egl_device(index), "unset MUJOCO_EGL_DEVICE_ID: the first device that works is taken"
    if variables := _variables():
        return "", f"unset {', '.join(variables)}, or {install}"
    return "", install


def _egl_device(index: str) -> str:
    from mujoco.egl import egl_ext

    count = len(egl_ext.eglQueryDevicesEXT())
    if index.strip().isdecimal() and int(index) < count:
        return f"EGL's device MUJOCO_EGL_DEVICE_ID={index} does not start"
    return f"MUJOCO_EGL_DEVICE_ID is '{index}', expected the number of one of {count} EGL devices, from 0"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _variables() -> list[str]:
    """``NAME=value`` of what is set and decides how OpenGL draws; MuJoCo and PyOpenGL set one themselves."""
    own = {("PYOPENGL_PLATFORM", os.environ.get("MUJOCO_GL", ""))}
    return [f"{k}={v}" for k, v in sorted(os.environ.items()) if k.startswith(_PREFIXES) and (k, v) not in own]
