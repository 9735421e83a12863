"""ActivityNet-FSL: 198 classes (99 base, 51 + 48 novel), clips of minutes.

    python launch/main.py --config=configs/activitynet.py:5shot

Values: supplement of the paper and the published configurations, by shots 1/5/10/20.
"""

from configs import common


def get_config(arg: str | None = None):
    """The configuration for words such as `5shot,method=avdiff`."""
    w = common.words(arg)
    c = common.base()
    c.dataset = "activitynet"
    c.shots = k = w.get("shots", 5)
    m, d, t = c.model, c.diffusion, c.train
    m.depth, m.switch = 5, 3
    m.dropout_enc = common.by_shots(k, 0.3, 0.3, 0.3, 0.2)
    m.dropout_tokens = common.by_shots(k, 0.1, 0.2, 0.2, 0.2)
    m.dropout_blocks = 0.1
    m.dropout_proj = 0.1
    d.steps = common.by_shots(k, 100, 200, 200, 200)
    d.hidden = common.by_shots(k, 64, 128, 128, 128)
    d.dropout = common.by_shots(k, 0.4, 0.0, 0.0, 0.0)
    t.batch = 32
    t.learning_rate = 7e-5
    # 60 video tokens of 0.64 s span 40 audio tokens of 0.96 s; published: 37 (a product
    # where a quotient is meant), and 184 for the 300 of the test.
    data, published = c.data, "published" in w
    data.train_max_video, data.train_max_audio = 60, 37 if published else 40
    data.test_max_video, data.test_max_audio = 300, 184 if published else 200
    data.val_max_video, data.val_max_audio = (30, 18) if published else (300, 200)
    c.eval.batch = 32
    return common.apply(c, w)
