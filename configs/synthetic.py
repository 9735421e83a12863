"""The embedded default: a made-up set with the benchmark's structure, small enough for two
CPU cores in a few minutes. Everything needed is made in the workdir.

    python launch/main.py --config=configs/synthetic.py:5shot
"""

from configs import common


def get_config(arg: str | None = None):
    """The configuration for words such as `5shot,method=avdiff`."""
    w = common.words(arg)
    c = common.base()
    c.dataset = "synthetic"
    c.shots = w.get("shots", 5)
    s = c.data.synthetic
    s.classes, s.clips_per_class = 32, 60
    s.audio_dim, s.video_dim, s.text_dim = 32, 128, 32
    m, d, t = c.model, c.diffusion, c.train
    m.dim, m.heads, m.head_dim, m.enc_hidden = 64, 4, 16, 128
    m.depth, m.switch = 2, 1
    d.steps, d.hidden = 100, 128
    t.batch, t.batches, t.epochs1, t.epochs2 = 64, 50, 12, 8
    t.learning_rate = 1e-3
    return common.apply(c, w)
