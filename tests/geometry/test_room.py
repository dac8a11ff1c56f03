"""Rooms as data: what an episode's room is drawn from, and what it may not do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from geo4d_bench.errors import UnknownNameError
from geo4d_bench.geometry.room import KEEP_OUT_M, LOW_M, ROOM_SETS, THINGS, RoomsName, draw_room
from geo4d_bench.geometry.se3 import transform

KEY = "store_cereal-v1"


def test_nothing_of_held_out_is_in_varied() -> None:
    varied, held_out = ROOM_SETS["varied"], ROOM_SETS["held_out"]
    for name in ("patterns", "low", "tall", "hung", "mounts"):
        mine, theirs = set(getattr(varied, name)), set(getattr(held_out, name))
        assert mine
        assert theirs
        assert not mine & theirs, name
    for name in ("offset_m", "turn_deg", "height_m"):
        assert getattr(varied, name)[1] < getattr(held_out, name)[0], name
    assert (held_out.offset_m[1], held_out.turn_deg[1], held_out.height_m[1]) == (0.2, 30.0, 0.05)


def test_a_room_is_drawn_from_task_split_and_seed_alone() -> None:
    episodes = list(itertools.product((KEY, "hang_mug-v1"), ("train", "eval"), (0, 1)))
    rooms = [draw_room(name, *episode) for name in ("varied", "held_out") for episode in episodes]
    again = [draw_room(name, *episode) for name in ("varied", "held_out") for episode in reversed(episodes)]
    assert rooms == again[7::-1] + again[:7:-1]
    assert len({*rooms}) == len(rooms)
    assert draw_room("fixed", KEY, "train", 0) is None


def test_an_unknown_set_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no set of rooms 'heldout'; did you mean 'held_out'"):
        draw_room("heldout", KEY, "train", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["varied", "held_out"])
def test_drawn_rooms_keep_to_their_set_and_clear_of_the_work(name: RoomsName) -> None:
    among = ROOM_SETS[name]
    rooms = [room for seed in range(150) if (room := draw_room(name, KEY, "train", seed))]
    offset = np.array([np.hypot(*room.at_m[:2]) for room in rooms])
    turn, height = (
        np.array([v(room) for room in rooms]) for v in (lambda r: np.degrees(r.yaw_rad), lambda r: r.at_m[2])
    )
    for values, (low, high) in ((offset, among.offset_m), (turn, among.turn_deg), (height, among.height_m)):
        assert low <= np.abs(values).min() < low + 0.05 * high
        assert 0.97 * high < np.abs(values).max() <= high
    assert {np.sign(v) for v in (*turn, *height)} == {-1.0, 1.0}
    used: dict[str, set[str]] = {"patterns": set(), "low": set(), "tall": set(), "hung": set(), "mounts": set()}
    (x0, x1), (y0, y1) = KEEP_OUT_M
    for room in rooms:
        T_world_room = room.T_world_room
        used["patterns"] |= {room.floor.pattern, room.walls.pattern}
        used["mounts"].add(room.mount[0])
        assert 1 <= len(room.lights) <= 4
        for thing in room.things:
            kind = next(k for k in ("low", "tall", "hung") if thing.name in getattr(among, k))
            used[kind].add(thing.name)
            radius, pieces = THINGS[thing.name]
            x, y, z = transform(T_world_room, np.array(thing.at_m))
            assert np.hypot(max(x0 - x, 0.0, x - x1), max(y0 - y, 0.0, y - y1)) >= thing.scale * radius - 1e-9
            for shape, half, centre, _ in pieces:
                corner = np.abs(centre[:2]) + half[:2] if shape == "box" else np.hypot(*centre[:2]) + max(half[:2])
                assert kind == "hung" or float(np.linalg.norm(corner)) <= 1.05 * radius, thing.name
                if kind == "low":
                    assert z + thing.scale * (centre[2] + half[2]) < LOW_M, thing.name
            assert kind != "tall" or np.hypot(x, y) > 2.2
    assert {kind: used[kind] for kind in used} == {kind: {*getattr(among, kind)} for kind in used}
