"""Portable scenes: an MJCF model with simplified meshes and all its assets in one zip that only MuJoCo is needed for.

robosuite's own XML names meshes by absolute paths and draws 168,000 triangles. :func:`pack_scene` keeps every body,
joint and actuator (a recorded mjSTATE_FULLPHYSICS fits), replaces the shapes by those that are seen, and adds what the
labels in segmentation images mean. :func:`load_scene` needs no robosuite.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.hand import PART_NAMES
from geo4d_bench.geometry.room import Room
from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.io import read_zip
from geo4d_bench.rendering.meshes import SHARE_WITHIN_ERROR, mesh_asset, texture_asset

FORMAT = 1
STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's earliest time: the same content gives the same bytes
_VISUAL_GROUP = 1  # robosuite: 0 collision, 1 visual


@dataclass(frozen=True)
class Scene:
    """A loaded scene.

    Attributes:
        model, data: MuJoCo's; ``data`` belongs to this object and is overwritten by :meth:`set_state`.
        seg_names: what the labels of segmentation images mean; 0 is ``background``.
        geom_label: (ngeom,) uint8 label of each geom.
        arms: names of the arms, in the order of their labels in part images.
    """

    model: Any
    data: Any
    seg_names: tuple[str, ...]
    geom_label: npt.NDArray[np.uint8]
    arms: tuple[str, ...]

    @property
    def state_size(self) -> int:
        """Length of a state vector (mjSTATE_FULLPHYSICS)."""
        return int(mujoco.mj_stateSize(self.model, STATE))

    def set_state(self, state: npt.ArrayLike) -> None:
        """Move every body to where it is in ``state`` (nstate,) float64; SceneError where the length differs."""
        state = np.asarray(state, dtype=np.float64)
        if state.shape != (self.state_size,):
            raise SceneError(
                f"state of shape {state.shape}, but this scene's states have shape ({self.state_size},); "
                "use the scene that the episode names"
            )
        mujoco.mj_setState(self.model, self.data, state, STATE)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def enter(self, room: Room) -> None:
        """Draw another room about the work, see :mod:`geo4d_bench.rendering.rooms`; SceneError in a scene that has but
        its own."""
        raise SceneError("this scene has no room but its own; load it with load_scene_for")

    def T_world_site(self, name: str) -> Array:
        """Pose (4, 4) of a site at the present state; SceneError where there is none of that name."""
        index = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, name)
        if index < 0:
            raise SceneError(f"the scene has no site '{name}'")
        return pose(self.data.site_xmat[index].reshape(3, 3), self.data.site_xpos[index])


def pack_scene(xml: str, *, arms: Sequence[str] = ("right",), mesh_error_m: float = 0.001) -> bytes:
    """Pack the MJCF of a model into a self-contained zip, the same bytes every time.

    Geoms outside robosuite's visual group are left out, except in a tree of bodies that has none in it.

    Args:
        xml: MJCF whose files are named by absolute paths (as robosuite writes it) or that has none.
        arms: names of the arms; their hands and fingers get labels of their own.
        mesh_error_m: how far meshes may be simplified, metres; 0 keeps every triangle.

    Raises:
        SceneError: the XML or one of its files cannot be read, or the packed model's state would differ.
    """
    try:
        spec = mujoco.MjSpec.from_string(xml)
        original = spec.compile()
    except ValueError as error:
        raise SceneError(f"the scene's MJCF does not compile: {error}") from error
    names, body_label = _robosuite_labels(original, arms)

    _keep_inertia(spec, original)
    _drop_hidden(spec, original)
    used = {geom.meshname for geom in spec.geoms if geom.meshname}
    for mesh in list(spec.meshes):
        if mesh.name not in used:
            spec.delete(mesh)
    assets: dict[str, bytes] = {}
    for mesh in spec.meshes:
        mesh.file, content = mesh_asset(original, mesh.name, mesh_error_m)
        assets[mesh.file] = content
        mesh.uservert, mesh.userface = [], []  # what stood in the MJCF itself is in the file now
        mesh.scale, mesh.refpos, mesh.refquat = [1, 1, 1], [0, 0, 0], [1, 0, 0, 0]  # applied to the asset already
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # a simplified mesh need not be closed
    for texture in spec.textures:
        if texture.file:
            texture.file, content = texture_asset(Path(texture.file))
            assets[texture.file] = content
            # MuJoCo read this from the original PNG's sRGB chunk, which a smaller PNG does not carry.
            texture.colorspace = mujoco.mjtColorSpace(int(original.tex_colorspace[texture.id]))
    spec.meshdir = spec.texturedir = ""
    spec.assets = assets
    packed = spec.compile()
    if mujoco.mj_stateSize(packed, STATE) != mujoco.mj_stateSize(original, STATE):
        raise SceneError("packing changed the model's state; a geom or mesh that joints or actuators need was dropped")

    meta = {
        "format": FORMAT,
        "seg_names": names,
        "arms": list(arms),
        "geom_label": [body_label[packed.body(int(b)).name] for b in packed.geom_bodyid],
        "mesh_budget": {"error_m": mesh_error_m, "share": SHARE_WITHIN_ERROR},
    }
    entries = {"scene.xml": spec.to_xml().encode(), "scene.json": json.dumps(meta, sort_keys=True).encode(), **assets}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), entries[name], zipfile.ZIP_DEFLATED, 6)
    return buffer.getvalue()


def load_scene(source: Path | bytes) -> Scene:
    """Load a packed scene from a zip's path or bytes; SceneError where it is missing, cut off or another format."""
    where = "scene" if isinstance(source, bytes) else str(source)
    try:
        files = read_zip(source)
        meta = json.loads(files.pop("scene.json"))
        if meta["format"] != FORMAT:
            raise SceneError(f"{where}: scene format {meta['format']}, expected {FORMAT}; make the dataset again")
        model = mujoco.MjModel.from_xml_string(files.pop("scene.xml").decode(), files)
    except (OSError, KeyError, TypeError, ValueError, mujoco.FatalError) as error:
        raise SceneError(f"{where}: not a whole scene file ({error}); copy or make the dataset again") from error
    labels = np.array(meta["geom_label"], dtype=np.uint8)
    if len(labels) != model.ngeom:
        raise SceneError(f"{where}: {len(labels)} labels for {model.ngeom} geoms; make the dataset again")
    scene = Scene(model, mujoco.MjData(model), tuple(meta["seg_names"]), labels, tuple(meta["arms"]))
    mujoco.mj_forward(model, scene.data)
    return scene


def gripper_prefix(arm: int) -> str:
    """What robosuite's names of bodies and sites of the gripper of the arm with that index begin with.

    One robot an arm, whose only arm robosuite calls ``right``.
    """
    return f"gripper{arm}_right_"


def _robosuite_labels(model: Any, arms: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Label names, and the label of each body by its name, from robosuite's names of bodies.

    0 is ``background``: the world itself, with floor and walls. Every body attached to the world gives its subtree a
    label, its name without robosuite's ``_main``; robots and their mounts share ``robot``, and bodies that follow a
    mocap target have none. Each arm's gripper and fingers are ``hand/<arm>``, ``finger_left/<arm>`` and
    ``finger_right/<arm>``.
    """
    bodies = [model.body(i) for i in range(1, model.nbody)]
    roots: dict[str, list[str]] = {"robot": []}
    for body in bodies:
        if int(body.parentid[0]) != 0 or int(body.mocapid[0]) >= 0:
            continue
        if body.name.startswith(("robot", "gripper")) or "mount" in body.name:
            roots["robot"].append(body.name)
        else:
            roots.setdefault(body.name.removesuffix("_main").removesuffix("_root"), []).append(body.name)
    for number, arm in enumerate(arms):
        for part, ending in zip(PART_NAMES, ("right_gripper", "leftfinger", "rightfinger"), strict=True):
            roots[f"{part}/{arm}"] = [b.name for b in bodies if b.name == f"{gripper_prefix(number)}{ending}"]
    names = ["background", *(label for label, found in roots.items() if found)]
    if len(names) > 255:
        raise SceneError(f"{len(names)} labels, but a segmentation image holds at most 255")
    label_of = {body: names.index(label) for label, found in roots.items() for body in found}
    labels = [0]
    for body in bodies:
        labels.append(label_of.get(body.name, labels[int(body.parentid[0])]))  # parents come first
    return names, {model.body(i).name: label for i, label in enumerate(labels)}


def _keep_inertia(spec: Any, model: Any) -> None:
    """Write out the inertia that bodies got from their geoms, so that bodies may lose them."""
    for body in spec.bodies:
        if body.id > 0 and model.body_mass[body.id] > 0:
            body.explicitinertial = True
            body.mass = model.body_mass[body.id]
            body.ipos, body.iquat = model.body_ipos[body.id], model.body_iquat[body.id]
            body.inertia = model.body_inertia[body.id]
            body.fullinertia = [np.nan] * 6


def _drop_hidden(spec: Any, model: Any) -> None:
    """Delete geoms that are not seen."""
    root, visual = model.body_rootid[model.geom_bodyid], model.geom_group == _VISUAL_GROUP
    hidden = (~visual & np.isin(root, root[visual])) | (model.geom_rgba[:, 3] == 0) | (model.body_mocapid[root] >= 0)
    for geom in [geom for geom in spec.geoms if hidden[geom.id]]:
        spec.delete(geom)
