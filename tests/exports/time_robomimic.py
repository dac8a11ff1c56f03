"""How many windows a second robomimic's own loader reads; run by ``geo4d-bench bench load --robomimic PYTHON``.

python time_robomimic.py FILE LENGTH NUMBER REPEATS

Prints one line: seconds for NUMBER random sequences of LENGTH frames, once a repeat.
"""

import json
import sys
import time

import h5py
import numpy as np
from robomimic.utils import obs_utils
from robomimic.utils.dataset import SequenceDataset


def main(path: str, length: int, number: int, repeats: int) -> None:
    with h5py.File(path) as file:
        images = sorted(key for key in file["data/demo_0/obs"] if key.endswith("_image"))
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": [], "rgb": images}})
    data = SequenceDataset(
        hdf5_path=path, obs_keys=images, dataset_keys=("actions",), seq_length=length, pad_seq_length=True,
        hdf5_cache_mode=None, load_next_obs=False,
    )  # fmt: skip
    rng, seconds = np.random.default_rng(0), []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        for index in rng.integers(len(data), size=number):
            data[int(index)]
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds[1:]))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
