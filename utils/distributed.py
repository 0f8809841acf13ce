"""Seeds."""

import random

import numpy as np
import torch


def seed_everything(seed):
    """Seeds Python, numpy and torch (CPU and CUDA)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
