import base64

from glmja.evaluation.plots import COLORS, bars, drifts, lines


def svg(uri):
    return base64.b64decode(uri.partition("base64,")[2]).decode().lower()


def drawn(uri):
    return {name for name, color in COLORS.items() if color.lower() in svg(uri)}


def test_a_color_means_one_model_or_one_language_in_all_plots():
    assert len(set(COLORS.values())) == len(COLORS)
    assert drawn(bars({"baseline": [1.0], "model": [2.0]}, ["ja"], "bits")) == {"baseline", "model"}
    assert drawn(bars({"model": [2.0]}, ["ja"], "bits")) == {"model"}
    assert drawn(drifts({"zh": (0.1, 0.0, 0.2), "en": (-0.1, -0.2, 0.0)}, 0.02)) == {"model"}
    points = [(1, 2.0), (2, 1.0)]
    assert drawn(lines({"train/loss": points}, "nats")) == set()
    assert drawn(lines({"en": points, "ja": points}, "bits")) == {"en", "ja"}
    assert drawn(lines({"zh": points, "ko": points, "fr": points}, "bits")) == {"zh"}
