"""Sizes of the methods besides AV-Diff: where they differ from the fields of `common.py`, and the
fields that a method has alone, in a group of its name. They depend on the data set and stand in the
configuration before flags change it.

Published sizes are those of the methods' own code; what the benchmark's papers leave open is ours.
"""

from ml_collections import ConfigDict

BENCHMARK = ("activitynet", "ucf", "vggsound")
SMALL = ("synthetic", "own")  # the made-up set, and sets of a user


def size_method(c: ConfigDict) -> None:
    """Gives the fields the sizes that `c.method` has on `c.dataset`."""
    if c.method in SIZES:
        SIZES[c.method](c)


def _avdiff_plus(c: ConfigDict) -> None:
    c.diffusion.schedule, c.diffusion.few_steps = "cosine", min(20, c.diffusion.steps)
    c.train.frozen_mode = "eval"
    c.avdiff_plus = ConfigDict({
        # What classifies: Projnet and CLnet (linear), a closed form (gaussian), or auto: chosen on
        # Val. A generator teaches the first alone.
        "head": "gaussian" if c.generator == "none" else "linear",
        "space": "auto",  # what it looks at: the fused token, raw features, both, or auto
        # How far Projnet's inputs are moved, in residuals of a base clip: 0, 1, 2 or auto.
        "jitter": "0",
        # Of the generator.
        "predict": "v",  # noise, x0, v
        "residual": False,  # what a feature has beyond the mean of its class
        "shuffle_text": False,  # control: the class text of another class
        "learning_rate": 2e-3,
        # Steps an update, so that an epoch, which may be all that Val chooses, has 600 or more.
        "repeats": -(-600 // (2 * c.train.batches)),
        "ema": 0.99,  # of the moving average of its weights, which it samples with
        "drop_condition": 0.1,  # how often it is trained without class text
    })


def _avgan(c: ConfigDict) -> None:
    group = c.avgan = _of_gan(c)
    # Published, as leftovers in the configurations of AV-Diff's code.
    group.noise = {"activitynet": 32, "ucf": 64, "vggsound": 128}.get(c.dataset, 64)
    group.critic_hidden = {"activitynet": 128, "ucf": 64, "vggsound": 128}.get(c.dataset, 64)


def _protogan(c: ConfigDict) -> None:
    c.protogan = _of_gan(c)
    # Whether generated features end in a ReLU: the benchmark's are not negative, others may be.
    c.protogan.nonnegative = c.dataset in BENCHMARK


def _tsl(c: ConfigDict) -> None:
    c.tsl = _of_gan(c)
    c.train.frozen_mode = "eval"  # the fixed representation takes no dropout (published)


def _of_gan(c: ConfigDict) -> ConfigDict:
    """The rate of the players beside the main one: as published for GANs on action features; off
    the benchmark, where schedules are short, as fast as the main player (ours)."""
    return ConfigDict({"learning_rate": 1e-4 if c.dataset in BENCHMARK else c.train.learning_rate})


def _tcaf(c: ConfigDict) -> None:
    c.tcaf = ConfigDict({"dropout_text": 0.1})  # of W_proj and the decoders; of D_o: ours
    published = {  # depth, dropouts of embedding nets, tokens, blocks, projection
        "activitynet": (6, 0.3, 0.2, 0.4, 0.1),
        "ucf": (6, 0.3, 0.2, 0.3, 0.1),
        "vggsound": (8, 0.2, 0.1, 0.5, 0.2),
    }
    m = c.model
    if c.dataset in published:
        m.depth, *dropouts = published[c.dataset]
        m.dropout_enc, m.dropout_tokens, m.dropout_blocks, m.dropout_proj = dropouts


def _avca(c: ConfigDict) -> None:
    published = {  # dropouts of encoders and attention, of projections, of text net and decoders
        "activitynet": (0.2, 0.2, 0.1), "ucf": (0.2, 0.3, 0.5), "vggsound": (0.0, 0.0, 0.0),
    }
    m = c.model
    ours = (m.dropout_enc, m.dropout_proj, m.dropout_proj)
    m.dropout_enc, m.dropout_proj, dropout_text = published.get(c.dataset, ours)
    c.avca = ConfigDict({"dropout_text": dropout_text})


def _zorro(c: ConfigDict) -> None:
    c.zorro = ConfigDict({"tokens": 8 if c.dataset in SMALL else 16})  # ours: fusion tokens


def _perceiver(c: ConfigDict) -> None:
    # Ours; the original has 512 for inputs of 50,000 tokens.
    c.perceiver = ConfigDict({"latents": {"synthetic": 16, "own": 32}.get(c.dataset, 64)})


def _hip(c: ConfigDict) -> None:
    """Two levels of groups and the processor: latents of each group, their width, self-attention.

    Widths, heads and MLP widening of the benchmark's grouped levels are the original's variant
    "16"; the counts are ours. The processor has the width and heads of the other methods.
    """
    def level(latents, dim, heads, head_dim):
        return {"latents": latents, "dim": dim, "heads": heads, "head_dim": head_dim}

    if c.dataset in SMALL:  # ours
        levels, latents, cross_dim = (level(4, 32, 4, 8), level(8, 48, 4, 12)), 16, 32
    else:
        levels, latents, cross_dim = (level(8, 128, 4, 32), level(16, 256, 8, 32)), 32, 128
    c.hip = ConfigDict({
        "level1": levels[0], "level2": levels[1], "latents": latents, "layers": 2,
        "cross_dim": cross_dim,  # width of the one head of cross-attention
    })


SIZES = {
    "avdiff_plus": _avdiff_plus, "avgan": _avgan, "protogan": _protogan, "tsl": _tsl,
    "tcaf": _tcaf, "avca": _avca, "zorro": _zorro, "perceiver": _perceiver, "hip": _hip,
}
