"""Your own features: a smaller model and a short schedule.

    python launch/main.py --config=configs/own.py:5shot \
        --config.data.store=mine.h5 --config.data.split=mine-5shot.json
"""

from ml_collections import ConfigDict

from configs import common


def get_config(arg: str | None = None):
    """The configuration for words such as `5shot,method=avdiff`."""
    w = common.words(arg)
    return common.apply(sized(w), w)


def sized(w: dict) -> ConfigDict:
    """The fields before words choose among them."""
    c = common.base()
    c.dataset = "own"
    c.shots = w.get("shots", 5)
    c.data.audio_scale = "standardize"
    m, d, t = c.model, c.diffusion, c.train
    m.video_norm = "feature"
    m.dim, m.heads, m.head_dim, m.enc_hidden = 128, 4, 32, 256
    m.depth, m.switch = 3, 2
    d.steps = 100
    t.batch, t.batches, t.epochs1, t.epochs2 = 32, 40, 8, 5
    t.learning_rate = 5e-4
    c.eval.calibration = "exact"
    return c
