"""How the authors of other detectors trained them: options of train.py by their names.

What a recipe leaves out is as for DeepPro: the defaults of train.py.
"""

# Li et al., TNNLS 2023, and its code. Frames lie whole in the corner of a canvas of 512 x 512, none
# is augmented, and an epoch has as many clips as the data set has frames (here they are drawn with
# replacement). The released weights saw half as many steps as these 20 epochs of batches of one;
# whether by batches of two is not recorded.
DTUM = {
    "loss": "SoftIoU-batch",
    "learning_rate": 1e-3,
    "beta2": 0.99,
    "decay_rate": 0.0,
    "lr_decay": 0.5,
    "step_size": 3,
    "epoch": 20,
    "batch_size": 1,
    "patch_size": 512,
    "sample_rate": 1.0,
}

# XinyiYing/RFR, for IRSatVideo-LEO; how it was trained on NUDT-MIRSDT is not public. An epoch has a
# clip for every 20 frames. There, a clip that reaches past a sequence's end repeats its last frame,
# and a crop is centred on a target pixel of any frame; here, as for DeepPro, short clips are padded
# with zeros and the middle frame places the crop.
RFR = {
    "loss": "SoftIoU-frame",
    "learning_rate": 5e-4,
    "decay_rate": 0.0,
    "lr_decay": 0.5,
    "step_size": 5,
    "epoch": 20,
    "batch_size": 3,
    "patch_size": 128,
    "sample_rate": 0.05,
    "crops": "centred",
    "flips": True,
    "turns": True,
}
