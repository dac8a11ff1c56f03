"""Portable scenes: an MJCF model with simplified meshes and all its assets in one zip that only MuJoCo is needed for.

robosuite's own XML names meshes by absolute paths and draws 168,000 triangles. :func:`pack_scene` keeps every body,
joint and actuator (a recorded mjSTATE_FULLPHYSICS fits), replaces the shapes by those that are to be seen, and adds
what the labels in segmentation images mean. :func:`load_scene` needs no robosuite.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geo4d_bench.errors import SceneError
from geo4d_bench.geometry.se3 import Array, pose
from geo4d_bench.io import write_atomic
from geo4d_bench.rendering.meshes import MeshBudget, mesh_asset, texture_asset

os.environ.setdefault("MUJOCO_GL", "egl")
import mujoco

FORMAT = 1
BACKGROUND = "background"
STATE = mujoco.mjtState.mjSTATE_FULLPHYSICS
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's earliest time: the same content gives the same bytes


@dataclass(frozen=True)
class SceneBundle:
    """A packed scene: ``data`` are the zip's bytes, ``sha256`` their address in hexadecimal."""

    data: bytes
    sha256: str

    def save(self, folder: Path) -> Path:
        """Write ``<sha256>.zip`` into ``folder`` unless it is there; another writer at the same time does no harm."""
        path = folder / f"{self.sha256}.zip"
        if not path.exists():
            write_atomic(path, self.data)
        return path


@dataclass(frozen=True)
class Scene:
    """A loaded scene.

    Attributes:
        model, data: MuJoCo's; ``data`` belongs to this object and is overwritten by :meth:`set_state`.
        seg_names: what the labels of segmentation images mean; 0 is ``background``.
        geom_label: (ngeom,) uint8 label of each geom.
        arms: names of the arms, in the order of their labels in part images.
        sha256: address of the zip it was loaded from.
    """

    model: Any
    data: Any
    seg_names: tuple[str, ...]
    geom_label: npt.NDArray[np.uint8]
    arms: tuple[str, ...]
    sha256: str

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

    def T_world_body(self, name: str) -> Array:
        """Pose (4, 4) of a body at the present state; SceneError where there is none of that name."""
        index = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, name)
        if index < 0:
            raise SceneError(f"the scene has no body '{name}'")
        return pose(self.data.xmat[index].reshape(3, 3), self.data.xpos[index])

    def T_world_site(self, name: str) -> Array:
        """Pose (4, 4) of a site at the present state; SceneError where there is none of that name."""
        index = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, name)
        if index < 0:
            raise SceneError(f"the scene has no site '{name}'")
        return pose(self.data.site_xmat[index].reshape(3, 3), self.data.site_xpos[index])


def pack_scene(
    xml: str,
    *,
    arms: Sequence[str] = ("right",),
    labels: Mapping[str, Sequence[str]] | None = None,
    visual_groups: Sequence[int] = (1,),
    budget: MeshBudget | None = None,
) -> SceneBundle:
    """Pack the MJCF of a model into a self-contained zip, the same bytes every time.

    Args:
        xml: MJCF whose files are named by absolute paths (as robosuite writes it) or that has none.
        arms: names of the arms; their hands and fingers get labels of their own.
        labels: label -> names of bodies whose whole subtree carries it (the deepest named body wins). None derives
            them by robosuite's names, see :func:`robosuite_labels`.
        visual_groups: geoms of other groups are not drawn and left out (robosuite: 0 collision, 1 visual). A tree
            of bodies that has nothing in these groups keeps all of its geoms.
        budget: how far meshes may be simplified.

    Raises:
        SceneError: the XML or one of its files cannot be read, or the packed model's state would differ.
    """
    budget = budget or MeshBudget()
    try:
        spec = mujoco.MjSpec.from_string(xml)
        original = spec.compile()
    except ValueError as error:
        raise SceneError(f"the scene's MJCF does not compile: {error}") from error
    if labels is None:
        labels = robosuite_labels(original, arms)
    names, body_label = _body_labels(original, labels)

    _keep_inertia(spec, original)
    _drop_hidden(spec, original, set(visual_groups))
    used = {geom.meshname for geom in spec.geoms if geom.meshname}
    for mesh in list(spec.meshes):
        if mesh.name not in used:
            spec.delete(mesh)
    assets: dict[str, bytes] = {}
    for mesh in spec.meshes:
        name, content = mesh_asset(original, mesh.name, mesh.file, budget)
        assets[name] = content
        mesh.file = name
        mesh.uservert, mesh.userface = [], []  # what stood in the MJCF itself is in the file now
        mesh.scale, mesh.refpos, mesh.refquat = [1, 1, 1], [0, 0, 0], [1, 0, 0, 0]  # applied to the asset already
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # a simplified mesh need not be closed
    for texture in spec.textures:
        if texture.file:
            name, content = texture_asset(Path(texture.file))
            assets[name] = content
            texture.file = name
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
        "geom_label": [int(body_label[packed.body(int(b)).name]) for b in packed.geom_bodyid],
        "mesh_budget": dataclasses.asdict(budget),
    }
    entries = {"scene.xml": spec.to_xml().encode(), "scene.json": json.dumps(meta, sort_keys=True).encode(), **assets}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(entries):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), entries[name], zipfile.ZIP_DEFLATED, 6)
    data = buffer.getvalue()
    return SceneBundle(data, hashlib.sha256(data).hexdigest())


def load_scene(source: Path | bytes | SceneBundle) -> Scene:
    """Load a packed scene from a zip's path or bytes; SceneError where it is missing, cut off or another format."""
    if isinstance(source, SceneBundle):
        source = source.data
    where = "scene" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        meta = json.loads(files.pop("scene.json"))
        if meta["format"] != FORMAT:
            raise SceneError(f"{where}: scene format {meta['format']}, expected {FORMAT}; make the dataset again")
        model = mujoco.MjModel.from_xml_string(files.pop("scene.xml").decode(), files)
    except (OSError, KeyError, zipfile.BadZipFile, ValueError) as error:
        raise SceneError(f"{where}: not a whole scene file ({error}); copy or make the dataset again") from error
    if len(meta["geom_label"]) != model.ngeom:
        raise SceneError(f"{where}: {len(meta['geom_label'])} labels for {model.ngeom} geoms; make the dataset again")
    scene = Scene(
        model=model,
        data=mujoco.MjData(model),
        seg_names=tuple(meta["seg_names"]),
        geom_label=np.array(meta["geom_label"], dtype=np.uint8),
        arms=tuple(meta["arms"]),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    mujoco.mj_forward(model, scene.data)
    return scene


def robosuite_labels(model: Any, arms: Sequence[str]) -> dict[str, list[str]]:
    """Labels by robosuite's names of bodies: ``robot``, movable objects, fixtures, and each arm's hand and fingers.

    Every body attached to the world is a label of its own under its name without robosuite's ``_main``, except
    robots and their mounts, and bodies that follow a mocap target. ``hand/<arm>`` is the gripper's base,
    ``finger_left/<arm>`` the subtree of ``gripper<i>_right_leftfinger`` where i is the arm's place among ``arms`` (one
    robot each, whose only arm robosuite calls ``right``), ``finger_right/<arm>`` the other. Floor and walls belong to
    the world itself: ``background``.
    """
    labels: dict[str, list[str]] = {"robot": []}
    bodies = [model.body(i) for i in range(1, model.nbody)]
    for body in bodies:
        if int(body.parentid[0]) != 0 or int(body.mocapid[0]) >= 0:
            continue
        if body.name.startswith(("robot", "gripper")) or "mount" in body.name:
            labels["robot"].append(body.name)
        else:
            labels.setdefault(body.name.removesuffix("_main").removesuffix("_root"), []).append(body.name)
    for number, arm in enumerate(arms):
        for label, ending in (
            ("hand", "right_gripper"),
            ("finger_left", "leftfinger"),
            ("finger_right", "rightfinger"),
        ):
            found = [b.name for b in bodies if b.name == f"{gripper_prefix(number)}{ending}"]
            if found:
                labels[f"{label}/{arm}"] = found
    return {label: found for label, found in labels.items() if found}


def gripper_prefix(arm: int) -> str:
    """What robosuite's names of bodies and sites of the gripper of the arm with that index begin with."""
    return f"gripper{arm}_right_"


def _body_labels(model: Any, labels: Mapping[str, Sequence[str]]) -> tuple[list[str], dict[str, int]]:
    """Label names (0 is the background), and the label of each body by its name."""
    names = [BACKGROUND, *labels]
    if len(names) > 255:
        raise SceneError(f"{len(names)} labels, but a segmentation image holds at most 255")
    roots = {body: names.index(label) for label, bodies in labels.items() for body in bodies}
    known = {model.body(i).name for i in range(model.nbody)}
    missing = sorted(set(roots) - known)
    if missing:
        raise SceneError(f"labels name bodies that the scene lacks: {', '.join(missing)}")
    of: list[int] = [0]
    for index in range(1, model.nbody):
        body = model.body(index)
        of.append(roots.get(body.name, of[int(body.parentid[0])]))
    return names, {model.body(i).name: of[i] for i in range(model.nbody)}


def _keep_inertia(spec: Any, model: Any) -> None:
    """Write out the inertia that bodies got from their geoms, so that bodies may lose them."""
    for body in spec.bodies:
        if body.id > 0 and model.body_mass[body.id] > 0:
            body.explicitinertial = True
            body.mass = model.body_mass[body.id]
            body.ipos, body.iquat = model.body_ipos[body.id], model.body_iquat[body.id]
            body.inertia = model.body_inertia[body.id]
            body.fullinertia = [np.nan] * 6


def _drop_hidden(spec: Any, model: Any, visual_groups: set[int]) -> None:
    """Delete geoms that are not to be seen."""
    root = model.body_rootid[model.geom_bodyid]
    seen = {int(r) for r, group in zip(root, model.geom_group, strict=True) if int(group) in visual_groups}
    hidden = [
        geom
        for geom in spec.geoms
        if (int(geom.group) not in visual_groups and int(root[geom.id]) in seen)
        or model.geom_rgba[geom.id][3] == 0
        or model.body_mocapid[model.body_rootid[model.geom_bodyid[geom.id]]] >= 0
    ]
    for geom in hidden:
        spec.delete(geom)
