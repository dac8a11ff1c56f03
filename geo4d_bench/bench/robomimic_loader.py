"""How quickly robomimic's own loader reads a file. Run by ``geo4d-bench bench load`` in robomimic's environment, which
lacks this package: ``python robomimic_loader.py FILE LENGTH NUMBER REPEATS`` prints the seconds for NUMBER random
sequences of LENGTH frames, once a repeat, as JSON.
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
        keys = sorted(file["data/demo_0/obs"])
    kinds = {kind: [key for key in keys if key.endswith(kind)] for kind in ("image", "depth", "labels")}
    obs_utils.initialize_obs_utils_with_obs_specs(
        {"obs": {"rgb": kinds["image"], "depth": kinds["depth"], "low_dim": kinds["labels"]}}
    )
    data = SequenceDataset(
        hdf5_path=path, obs_keys=keys, dataset_keys=("actions",), seq_length=length, pad_seq_length=True,
        hdf5_cache_mode=None, load_next_obs=False,
    )  # fmt: skip
    rng, seconds = np.random.default_rng(0), []
    for _ in range(repeats + 1):  # the first one warms up
        began = time.perf_counter()
        for index in rng.integers(len(data), size=number):
            data[int(index)]
        seconds.append(time.perf_counter() - began)
    print(json.dumps(seconds[1:]))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
