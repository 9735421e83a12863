"""Every field once, with unit and source. The files beside this one set values; `methods.py` adds
the fields that one method has alone.

`file.py:WORDS` chooses among published settings: words are separated by commas; a bare
`5shot` gives the shots, `key=value` the rest, `published` every choice of the published
code that differs from our default, `fast` what trains several times as fast on a GPU.
"""

from ml_collections import ConfigDict

from avdiff_jax.cli.choices import OF_WORD, find_usual_value
from configs import methods

SHOTS = (1, 5, 10, 20)
# Values of each word but `method`, which is checked against the table of methods.
WORDS = {"method": None, **{word: choice.values for word, choice in OF_WORD.items()}}


def by_shots(shots: int, one, five, ten, twenty):
    """The entry for a shot count; counts between two published ones take the lower's."""
    return {1: one, 5: five, 10: ten, 20: twenty}[max(s for s in SHOTS if s <= shots)]


def base() -> ConfigDict:
    """All fields, with the values that the data sets share."""
    c = ConfigDict()
    c.seed = 42
    c.dataset = ""  # name used for default paths and for the paper's rows
    c.shots = 5  # labelled clips k per novel class
    c.method = "avdiff"
    c.generator = "diffusion"  # of synthetic novel features: diffusion, none, gaussian, transfer

    c.data = ConfigDict()
    c.data.store = ""  # HDF5 feature store; default data/<dataset>.h5
    c.data.split = ""  # split JSON; default data/<dataset>-<shots>shot.json
    c.data.synthetic = ConfigDict()  # of the made-up set; classes = 0: not made up
    c.data.synthetic.classes = 0
    c.data.synthetic.clips_per_class = 40
    c.data.synthetic.audio_dim = 128
    c.data.synthetic.video_dim = 4096
    c.data.synthetic.text_dim = 300
    c.data.audio_scale = "255"  # 255: divide by it; standardize: from base training clips
    # Tokens; 0 = the longest clip, or the time span of the other modality's limit.
    c.data.train_max_audio = 0
    c.data.train_max_video = 0
    c.data.val_max_audio = 0
    c.data.val_max_video = 0
    c.data.test_max_audio = 0
    c.data.test_max_video = 0
    c.data.residence = "auto"  # features on the "device", streamed from "host", or "auto"
    c.data.shuffle_labels = False  # control: training labels at random

    c.model = m = ConfigDict()
    m.modality = "both"  # Table 5
    m.attention = "hybrid"  # Table 3
    m.depth = 4  # L
    m.switch = 2  # Z, layers of within-modality attention
    m.dim = 300
    m.heads = 8
    m.head_dim = 64
    m.mlp = 128
    m.enc_hidden = 512
    m.code = 64  # width of the token code
    m.fourier_scale = 10.0
    m.proj_hidden = 512
    m.width = 64  # of c_o
    m.dropout_enc = 0.2
    m.dropout_tokens = 0.1
    m.dropout_blocks = 0.1
    m.dropout_proj = 0.1
    m.video_norm = "time"  # time (published), feature, none
    m.bn_padding = "masked"  # masked, batch (published)

    c.diffusion = d = ConfigDict()
    d.steps = 200  # T
    d.schedule = "linear"  # linear (published), scaled, cosine
    d.hidden = 128  # of the noise predictor
    d.dropout = 0.0
    d.condition = "text"  # Table 6: text, prototype; control: shuffled, the text of another class
    d.few_steps = 0  # of a deterministic sampler (DDIM); 0: all T, each with noise (published)
    d.final_noise = True  # noise also at the last reverse step
    d.sampler_gradient = True  # CE on synthetic features reaches the predictor

    c.train = t = ConfigDict()
    t.batch = 64
    t.epochs1 = 30  # most epochs of substage 1
    t.epochs2 = 20  # and of substage 2
    t.batches = 300  # per epoch
    t.learning_rate = 7e-5
    t.weight_decay = 1e-5  # L2 in the gradient
    t.plateau = True  # x 0.1 when the selection score stalls
    t.patience = 3  # epochs without gain before a cut
    t.reset_optimizer = True  # fresh Adam in substage 2
    # Dropout and statistics of the frozen fusion go on (train, published) or stop (eval): then
    # each clip is fused once.
    t.frozen_mode = "train"
    t.crops = 4  # fused windows of a clip longer than the batches, in frozen_mode=eval
    # The draws of stage 2 are trained side by side ("together") or one after the other ("apart"),
    # which is the same but for rounding; "auto": together on cached features, and on a GPU.
    t.draws = "auto"
    # Steps of one compiled scan, at most an epoch; an epoch on a GPU with cached features.
    t.steps_per_dispatch = 50

    c.eval = e = ConfigDict()
    e.batch = 64  # clips at a time; a GPU takes eight times as many
    e.calibration = "grid"  # gamma from the grid 0, 0.1 .. 1, or "exact" breakpoints, on Val
    e.generated = 50  # synthetic features per novel class for the quality report

    c.device = ConfigDict()
    c.device.precision = "float32"  # of matrix products: float32, tensorfloat32 (GPU), bfloat16
    c.device.deterministic = False  # ask the GPU for run-to-run equality
    return c


def words(arg: str | None) -> dict:
    """Parses `5shot,method=mbt,published` strictly.

    Raises:
      ValueError: an unknown word, a word given twice or a value out of range.
    """
    out = {}

    def put(key, value):
        if key in out:
            raise ValueError(f"config word {key} is given twice in {arg!r}")
        out[key] = value

    for word in filter(None, (arg or "").split(",")):
        key, _, value = word.partition("=")
        if word in ("published", "fast"):
            put(word, True)
        elif word.endswith("shot") and word[:-4].isdigit() and int(word[:-4]) > 0:
            put("shots", int(word[:-4]))
        elif key in WORDS and value:
            allowed = WORDS[key]
            if allowed and value not in allowed:
                raise ValueError(f"config word {word!r}: {key} is one of {', '.join(allowed)}")
            put(key, value)
        else:
            raise ValueError(
                f"unknown config word {word!r}; known: Nshot (such as 5shot), published, fast, "
                + ", ".join(f"{k}={'|'.join(v) if v else 'NAME'}" for k, v in WORDS.items())
            )
    return out


def apply(c: ConfigDict, w: dict) -> ConfigDict:
    """Sets the fields that words choose, gives the method its sizes, and locks.

    Raises:
      ValueError: words that contradict each other.
    """
    c.method = w.get("method", c.method)
    c.generator = w.get("generator", find_usual_value("generator", c.method))
    c.model.attention = w.get("attention", c.model.attention)
    c.model.modality = w.get("modality", c.model.modality)
    c.diffusion.condition = w.get("condition", c.diffusion.condition)
    if w.get("published"):  # token limits of ActivityNet stand in its own file
        c.model.video_norm = "time"
        c.model.bn_padding = "batch"
        c.data.audio_scale = "255"
        c.diffusion.final_noise = True
        c.diffusion.sampler_gradient = True
        c.train.frozen_mode = "train"
        c.eval.calibration = "grid"
    if w.get("fast"):
        if w.get("published"):
            raise ValueError("the config words fast and published contradict each other")
        c.device.precision = "tensorfloat32"
        c.train.frozen_mode = "eval"
        if (c.method, c.generator) == ("avdiff", "diffusion"):
            c.diffusion.few_steps = min(20, c.diffusion.steps)
            c.diffusion.sampler_gradient = False
    methods.size_method(c)
    c.lock()
    return c
