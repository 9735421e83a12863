"""The front end of VGGish: one second of sound to a log-mel patch.

Numbers are those of the AudioSet release: 16 kHz, frames of 25 ms every 10 ms, 64 mel bands between
125 and 7500 Hz, patches of 96 frames without overlap. It runs in NumPy with float64, because the
logarithm near silence makes the rounding of a float32 transform visible.
"""

import functools

import numpy as np

RATE = 16_000  # Hz
FRAME, HOP, FFT = 400, 160, 512  # samples
BANDS, LOWEST, HIGHEST = 64, 125.0, 7500.0  # of the mel scale; Hz
FLOOR = 0.01  # added before the logarithm
PATCH_FRAMES = 96
PATCH_HOP = PATCH_FRAMES * HOP  # samples from one patch to the next: 0.96 s
PATCH = PATCH_HOP - HOP + FRAME  # samples that a patch sees: 0.975 s


def to_mel(hertz: np.ndarray | float) -> np.ndarray:
    """The mel scale of HTK."""
    return 1127.0 * np.log(1.0 + hertz / 700.0)


@functools.cache
def mel_matrix() -> np.ndarray:
    """Weights [FFT // 2 + 1, BANDS] float64 of each frequency in each band.

    Bands are triangles on the mel scale, evenly spaced, each reaching from the centre of its lower
    neighbour to that of its upper one.
    """
    corners = np.linspace(to_mel(LOWEST), to_mel(HIGHEST), BANDS + 2)
    lower, centre, upper = corners[:-2], corners[1:-1], corners[2:]
    bins = to_mel(np.linspace(0.0, RATE / 2, FFT // 2 + 1))[:, None]
    rising = (bins - lower) / (centre - lower)
    falling = (upper - bins) / (upper - centre)
    return np.maximum(0.0, np.minimum(rising, falling))


@functools.cache
def hann() -> np.ndarray:
    """The periodic Hann window [FRAME] float64."""
    return 0.5 - 0.5 * np.cos(2 * np.pi / FRAME * np.arange(FRAME))


def log_mel(wave: np.ndarray) -> np.ndarray:
    """The log-mel spectrogram of a wave at 16 kHz in -1..1.

    Args:
      wave: [samples].

    Returns:
      [frames, BANDS] float64, a row for each whole frame.
    """
    if len(wave) < FRAME:
        return np.zeros((0, BANDS))
    frames = np.lib.stride_tricks.sliding_window_view(wave.astype(np.float64), FRAME)[::HOP]
    return np.log(np.abs(np.fft.rfft(frames * hann(), FFT)) @ mel_matrix() + FLOOR)


def patches(wave: np.ndarray) -> np.ndarray:
    """Cuts the spectrogram of a wave at 16 kHz into patches; the rest is dropped.

    Returns:
      [patches, PATCH_FRAMES, BANDS] float32; no patch where the wave has less than 0.975 s.
    """
    mel = log_mel(wave)
    count = len(mel) // PATCH_FRAMES
    whole = mel[: count * PATCH_FRAMES].astype(np.float32)
    return whole.reshape(count, PATCH_FRAMES, BANDS)
