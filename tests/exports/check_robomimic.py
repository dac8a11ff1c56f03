"""Opens an exported file with the real robomimic 0.3.0 and trains on it; run by ``make test-exports``.

python check_robomimic.py FILE
"""

import sys
from pathlib import Path

import h5py
import numpy as np
import robomimic
import torch
import torchvision_on_cpu  # noqa: F401 - before robomimic's models
from robomimic.algo import algo_factory
from robomimic.config import config_factory
from robomimic.utils import file_utils, obs_utils, train_utils
from robomimic.utils.dataset import SequenceDataset

BATCH = 16


def main(path: Path) -> None:
    print(f"robomimic {robomimic.__version__}, torch {torch.__version__}")
    with h5py.File(path) as file:
        keys = sorted(file["data/demo_0/obs"])
        train, valid = ([name.decode() for name in file[f"mask/{split}"][()]] for split in ("train", "valid"))
        assert not set(train) & set(valid)
        assert len(train) + len(valid) == len(file["data"])
    images = [key for key in keys if key.endswith("_image")]
    # What a policy may see: robomimic's 'object' is the simulator's own knowledge.
    low = [key for key in keys if key.startswith("robot")]
    for algorithm, low_dim, rgb, steps in (
        ("low-dimensional BC", [*low, "object"], [], 400),
        ("image BC-RNN-GMM", low, images[:2], 12),
    ):
        config = _config(path, low_dim, rgb, recurrent=bool(rgb))
        obs_utils.initialize_obs_utils_with_config(config)
        shapes = file_utils.get_shape_metadata_from_dataset(str(path), all_obs_keys=config.all_obs_keys)
        meta = file_utils.get_env_metadata_from_dataset(str(path))
        trainset, validset = train_utils.load_data_for_training(config, obs_keys=shapes["all_obs_keys"])
        assert isinstance(trainset, SequenceDataset)
        _check_sample(trainset, path, train)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - robomimic draws from it
        model = algo_factory(config.algo_name, config, shapes["all_shapes"], shapes["ac_dim"], torch.device("cpu"))
        loader = torch.utils.data.DataLoader(trainset, batch_size=BATCH, shuffle=True)
        losses = []
        model.set_train()
        while len(losses) < steps:
            for batch in loader:
                batch = model.process_batch_for_training(batch)
                batch = model.postprocess_batch_for_training(batch, obs_normalization_stats=None)
                info = model.train_on_batch(batch, epoch=1, validate=False)
                losses.append(model.log_info(info)["Loss"])
                if len(losses) == steps:
                    break
        first, last = np.mean(losses[:4]), np.mean(losses[-4:])
        print(
            f"{algorithm} on {meta['env_name']}: {len(trainset)} training and {len(validset)} validation sequences "
            f"of {trainset.n_demos} and {validset.n_demos} demos, obs {list(shapes['all_shapes'])}, "
            f"actions {shapes['ac_dim']}; loss {first:.4f} -> {last:.4f} in {steps} steps"
        )
        assert np.isfinite(losses).all()
        assert last < first


def _config(path: Path, low_dim: list, rgb: list, recurrent: bool):
    config = config_factory("bc")
    with config.values_unlocked():
        config.train.data = str(path)
        config.train.hdf5_filter_key, config.train.hdf5_validation_filter_key = "train", "valid"
        config.experiment.validate = True
        config.train.hdf5_cache_mode = "low_dim"
        config.train.num_data_workers = 0
        config.observation.modalities.obs.low_dim = low_dim
        config.observation.modalities.obs.rgb = rgb
        if recurrent:
            config.train.seq_length = 5
            config.algo.rnn.enabled, config.algo.rnn.horizon = True, 5
            config.algo.gmm.enabled = True
    return config


def _check_sample(dataset: SequenceDataset, path: Path, demos: list) -> None:
    """What robomimic hands out is what the file holds, and actions lie in the range that its policies can reach."""
    index = dataset._demo_id_to_start_indices[demos[0]] + 7
    sample = dataset[index]
    with h5py.File(path) as file:
        demo = file[f"data/{demos[0]}"]
        np.testing.assert_allclose(sample["actions"][0], demo["actions"][7], rtol=1e-6)
        for key in dataset.obs_keys:
            stored = demo[f"obs/{key}"][7]
            np.testing.assert_allclose(sample["obs"][key][0], stored, rtol=1e-6)
        for name in file["data"]:
            actions = file[f"data/{name}/actions"][()]
            assert np.abs(actions).max() <= 1.0
            assert len(actions) == file[f"data/{name}"].attrs["num_samples"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
