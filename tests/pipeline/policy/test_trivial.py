import numpy as np
import pytest
import torch
from photographs import from_pillow, to_pillow
from scipy import stats
from torch import Tensor
from torchvision.transforms import InterpolationMode, TrivialAugmentWide, autoaugment

from ixt.pipeline.augment.layers import apply_policy
from ixt.pipeline.plan.crop import BILINEAR
from ixt.pipeline.plan.policy import fill_colour, parse_policy
from ixt.pipeline.plan.policy.ops import Frame, Op, OpTable
from ixt.pipeline.plan.policy.trivial import draw_trivial

UNLIKELY = 0.005
NAMES = {
    Op.IDENTITY: "Identity",
    Op.SHEAR_X: "ShearX",
    Op.SHEAR_Y: "ShearY",
    Op.TRANSLATE_X: "TranslateX",
    Op.TRANSLATE_Y: "TranslateY",
    Op.ROTATE: "Rotate",
    Op.BRIGHTNESS: "Brightness",
    Op.COLOR: "Color",
    Op.CONTRAST: "Contrast",
    Op.SHARPNESS: "Sharpness",
    Op.POSTERIZE: "Posterize",
    Op.SOLARIZE: "Solarize",
    Op.AUTOCONTRAST: "AutoContrast",
    Op.EQUALIZE: "Equalize",
}
MOVED = (Op.ROTATE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y)


def to_arg(name: str, magnitude: float) -> float:
    """Our argument for torchvision's operation and magnitude."""
    if name.startswith("Translate"):
        return -float(int(round(magnitude, 4)))
    if name in ("Brightness", "Color", "Contrast", "Sharpness"):
        return 1.0 + magnitude
    return float(np.ceil(magnitude)) if name == "Solarize" else magnitude


def drawn(count: int) -> OpTable:
    return draw_trivial((6, 0, np.arange(count)), Frame(224))


def test_strengths_are_torchvisions() -> None:
    table = drawn(50_000)
    space = TrivialAugmentWide()._augmentation_space(31)
    for op, name in NAMES.items():
        strengths, signed = space[name]
        values = np.atleast_1d(strengths.numpy()).astype(np.float64).tolist()
        theirs = {to_arg(name, v) for v in values}
        theirs |= {to_arg(name, -v) for v in values} if signed else set()
        ours = sorted(set(table.arg[table.op == op].tolist()))
        assert ours == pytest.approx(sorted(theirs), abs=1e-5), name


@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_operations_and_strengths_are_as_frequent_as_torchvisions(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs: list[tuple[str, float]] = []
    monkeypatch.setattr(
        autoaugment, "_apply_op", lambda image, name, value, **_: theirs.append((name, value))
    )
    transform, image = TrivialAugmentWide(), torch.zeros(3, 4, 4, dtype=torch.uint8)
    torch.manual_seed(0)
    for _ in range(count):
        transform(image)
    table = drawn(count)
    codes = {name: op for op, name in NAMES.items()}
    drawn_ops = (table.op[:, 0], [codes[name] for name, _ in theirs])
    counts = np.stack([np.bincount(ops, minlength=17) for ops in drawn_ops])
    assert stats.chi2_contingency(counts[:, list(NAMES)]).pvalue > UNLIKELY
    for name in ("Rotate", "TranslateX", "Posterize", "Color"):
        mine = table.arg[table.op == codes[name]].round(4)
        other = [round(to_arg(n, v), 4) for n, v in theirs if n == name]
        levels = sorted(set(mine) | set(other))
        both = np.array([[np.sum(np.array(x) == v) for v in levels] for x in (mine, other)])
        assert stats.chi2_contingency(both).pvalue > UNLIKELY, name


@pytest.mark.parametrize("op", NAMES)
def test_pixels_are_torchvisions(photographs: Tensor, op: Op) -> None:
    name = NAMES[op]
    strengths, signed = TrivialAugmentWide()._augmentation_space(31)[name]
    values = np.resize(np.atleast_1d(strengths.numpy()).astype(np.float64), 31)
    # Rounded: float32 leaves 16 px at 15.999999 on some processors, before truncation.
    values = values.round(4) * np.where(signed & (np.arange(31) % 2 == 1), -1.0, 1.0)
    images = photographs[np.arange(31) % len(photographs)]
    arg = np.array([to_arg(name, value) for value in values])[:, None]
    table = OpTable(np.full((31, 1), op, np.uint8), arg, np.full((31, 1), BILINEAR, np.uint8))
    ours = apply_policy(images, table, fill_colour(parse_policy("trivial"), (0.485, 0.456, 0.406)))
    theirs = torch.stack(
        [
            from_pillow(
                autoaugment._apply_op(
                    to_pillow(image), name, value, InterpolationMode.BILINEAR, None
                )
            )
            for image, value in zip(images, values.tolist(), strict=True)
        ]
    )
    difference = (ours.int() - theirs.int()).abs()
    if op in MOVED:
        assert difference.float().mean() < 0.01
        # A pixel whose source lies on the frame's edge may fall on either side.
        assert (difference > 1).float().mean() < 1e-4
    else:
        assert difference.max() == 0
