"""Clips of one's own, from video files: what launch/fit.py trains with. A schedule for two cores.

    python launch/main.py --config=configs/clips.py:5shot \
        --config.data.store=mine.h5 --config.data.split=mine-5shot.json
"""

from configs import common, own


def get_config(arg: str | None = None):
    """The configuration for words such as `5shot,method=avdiff`."""
    w = common.words(arg)
    c = own.sized(w)
    c.diffusion.few_steps = 20
    c.diffusion.sampler_gradient = False
    c.train.frozen_mode = "eval"
    return common.apply(c, w)
