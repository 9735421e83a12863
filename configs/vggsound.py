"""VGGSound-FSL: 271 classes (138 base, 69 + 64 novel), clips of 10 s.

    python launch/main.py --config=configs/vggsound.py:5shot

Values: supplement of the paper and the published configurations, by shots 1/5/10/20.
"""

from configs import common


def get_config(arg: str | None = None):
    """The configuration for words such as `5shot,method=avdiff`."""
    w = common.words(arg)
    c = common.base()
    c.dataset = "vggsound"
    c.shots = k = w.get("shots", 5)
    m, d, t = c.model, c.diffusion, c.train
    m.depth, m.switch = 8, 5
    m.dropout_enc = common.by_shots(k, 0.3, 0.2, 0.1, 0.1)
    m.dropout_tokens = common.by_shots(k, 0.3, 0.2, 0.2, 0.2)
    m.dropout_blocks = common.by_shots(k, 0.3, 0.2, 0.2, 0.2)
    m.dropout_proj = common.by_shots(k, 0.3, 0.2, 0.2, 0.2)
    d.steps = common.by_shots(k, 200, 100, 100, 100)
    t.learning_rate = 6e-5
    t.plateau = False
    t.reset_optimizer = False  # the published Adam moments carry over
    return common.apply(c, w)
