"""UCF-FSL: 48 classes (30 base, 12 + 6 novel), clips of about 7 s.

    python launch/main.py --config=configs/ucf.py:5shot

Values: supplement of the paper and the published configurations, by shots 1/5/10/20.
"""

from configs import common


def get_config(arg: str | None = None):
    """The configuration for words such as `5shot,method=avdiff`."""
    w = common.words(arg)
    c = common.base()
    c.dataset = "ucf"
    c.shots = k = w.get("shots", 5)
    m, d = c.model, c.diffusion
    m.depth, m.switch = 4, 2
    m.dropout_enc = common.by_shots(k, 0.2, 0.2, 0.2, 0.1)
    m.dropout_tokens = 0.1
    m.dropout_blocks = common.by_shots(k, 0.1, 0.1, 0.1, 0.2)
    m.dropout_proj = common.by_shots(k, 0.1, 0.1, 0.2, 0.2)
    # The paper's text and Figure 1 say T = 200 for UCF.
    d.steps = common.by_shots(k, 300, 200, 300, 200)
    d.hidden = common.by_shots(k, 64, 128, 128, 256)
    d.dropout = common.by_shots(k, 0.0, 0.0, 0.0, 0.1)
    c.train.learning_rate = 7e-5
    return common.apply(c, w)
