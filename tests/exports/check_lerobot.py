"""Opens an exported folder with the real LeRobotDataset and compares it with the robomimic export of the same dataset;
run by ``make test-exports``.

python check_lerobot.py FOLDER ROBOMIMIC_FILE
"""

import importlib.metadata
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the folder

import h5py
import numpy as np
import torch
import torchvision_on_cpu  # noqa: F401 - before lerobot's dataset
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset
from lerobot.datasets.utils import dataset_to_policy_features

MEAN_ERROR = 4 / 255
"""Of a decoded picture: H.264 keeps colour at half the size."""


def main(root: Path, robomimic: Path) -> None:
    print(f"lerobot {importlib.metadata.version('lerobot')} ({CODEBASE_VERSION}), torch {torch.__version__}")
    dataset = LeRobotDataset("geo4d/export", root=root, video_backend="pyav")
    print(dataset)
    cameras = dataset.meta.camera_keys
    with h5py.File(robomimic) as file:
        count = len(file["data"])
        assert dataset.num_episodes == count
        assert dataset.num_frames == file["data"].attrs["total"] == len(dataset)
        worst = 0.0
        for index in range(count):
            demo, row = file[f"data/demo_{index}"], dataset.meta.episodes[index]
            length = demo.attrs["num_samples"]
            assert row["dataset_to_index"] - row["dataset_from_index"] == length
            for k in (0, length // 2, length - 1):
                item = dataset[row["dataset_from_index"] + k]
                assert item["episode_index"] == index
                assert item["frame_index"] == k
                assert item["next.done"] == (k == length - 1)
                position = demo["obs/robot0_eef_pos"][k]
                np.testing.assert_allclose(item["observation.state"][:3], position, atol=1e-6)
                np.testing.assert_allclose(item["action"], demo["actions_abs"][k], atol=1e-6)
                for key in cameras:
                    stored = demo[f"obs/{key.rsplit('.', 1)[-1]}_image"][k].transpose(2, 0, 1) / 255
                    worst = max(worst, float(np.abs(item[key].numpy() - stored).mean()))
    assert worst < MEAN_ERROR, worst
    print(
        f"{3 * count} frames x {len(cameras)} cameras equal the source's; worst mean difference {255 * worst:.2f}/255"
    )

    # The whole dataset's statistics are what LeRobot makes of the episodes' own.
    rows = torch.utils.data.DataLoader(dataset.hf_dataset, batch_size=len(dataset))
    columns = next(iter(rows))
    for key in ("observation.state", "action"):
        np.testing.assert_allclose(dataset.meta.stats[key]["mean"], columns[key].numpy().mean(0), atol=1e-4)
        np.testing.assert_allclose(dataset.meta.stats[key]["max"], columns[key].numpy().max(0), atol=1e-6)
    aggregate_stats([{k: v for k, v in dataset.meta.stats.items() if k.startswith(("obs", "act"))}])

    part = LeRobotDataset("geo4d/export", root=root, episodes=[1], video_backend="pyav")
    assert {int(item) for item in part.hf_dataset["episode_index"]} == {1}
    print(f"episodes=[1]: {len(part)} frames; last task: {part[len(part) - 1]['task']!r}")

    fps = dataset.fps
    windows = LeRobotDataset(
        "geo4d/export", root=root, video_backend="pyav",
        delta_timestamps={cameras[0]: [-1 / fps, 0.0], "action": [k / fps for k in range(4)]},
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(windows, batch_size=8, shuffle=True, num_workers=2)
    batch = next(iter(loader))
    shapes = {key: tuple(value.shape) for key, value in batch.items() if torch.is_tensor(value)}
    print(f"a batch: {shapes}")
    height, width = dataset.meta.features[cameras[0]]["shape"][:2]
    assert shapes[cameras[0]] == (8, 2, 3, height, width)
    assert shapes["action"] == (8, 4, dataset.meta.features["action"]["shape"][0])
    print(f"what a policy is given: {sorted(dataset_to_policy_features(dataset.meta.features))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
