"""Generators of video by diffusion."""

import logging

# diffusers and peft import torchao where it is installed, and all of them warn of parts of it that are not used here.
for name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(name).setLevel(logging.ERROR)
