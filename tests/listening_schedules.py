"""Schedules that listen to the measured gradient noise, and measurements for them, also as Hypothesis draws them."""

from __future__ import annotations

from hypothesis import strategies as st

from trainer.rule import (
    AdamConstants,
    GradientNoise,
    Growth,
    Limits,
    NoiseCurve,
    NoiseDrop,
    Reference,
    Schedule,
    Start,
)

CIFAR = 50_000


def listening(policy, *levers, cap=None, start_lr=None, form="large_dataset", **more):
    """The paper's CIFAR-10 curve, g / 5 at 60, 120 and 160, with a lever for each step; the batch by default."""
    drops = tuple(
        NoiseDrop(epoch, 5, lever) for epoch, lever in zip((60, 120, 160), levers or ("batch",) * 3, strict=True)
    )
    return Schedule(
        Reference(0.1, 128, 0.9),
        Limits(2048, cap),
        CIFAR,
        204.8,
        NoiseCurve("steps", "batch", drops),
        form,
        start=Start(start_lr),
        policy=policy,
        **more,
    )


def exactly(scale, squared_norm=1.0):
    """A measurement without an error."""
    return GradientNoise(scale * squared_norm, squared_norm, 0.0, 0.0, 0.0)


def said(decision):
    return decision.plan.global_batch, decision.lr, decision.limited_by


noises = st.none() | st.builds(
    lambda trace, norm, trace_error, norm_error, correlation: GradientNoise(
        trace, norm, trace_error**2, norm_error**2, correlation * trace_error * norm_error
    ),
    st.floats(-1, 1e5),
    st.floats(-1, 10),
    st.floats(0, 1e3),
    st.floats(0, 3),
    st.floats(-0.99, 0.99),
)
lever = st.sampled_from(["batch", "lr", "momentum"])
curves = st.one_of(
    st.builds(NoiseCurve, st.sampled_from(["constant", "cosine", "linear"]), lever),
    st.builds(
        lambda at, by, lever: NoiseCurve("steps", drops=(NoiseDrop(at, by, lever),)),
        st.integers(0, 5), st.floats(0.2, 20), lever,
    ),
)  # fmt: skip


@st.composite
def schedules(draw, policy):
    """Whose workers take any batch at once: then a smaller wish never ends in a larger batch."""
    size = draw(st.integers(1_000, 1_000_000))
    curve = draw(curves)
    forms = ["large_dataset", "exact"]
    if policy == "measured" and "momentum" not in curve.levers:
        forms.append("square_root")
    form = draw(st.sampled_from(forms))
    return Schedule(
        Reference(draw(st.floats(1e-3, 10)), draw(st.integers(1, size // 2)), draw(st.floats(0, 0.99))),
        Limits(size, draw(st.none() | st.integers(1, size)), draw(st.none() | st.floats(1e-3, 10))),
        size,
        6,
        curve,
        form,
        start=Start(draw(st.none() | st.floats(1e-3, 10))),
        adam=AdamConstants() if form == "square_root" else None,
        policy=policy,
        growth=Growth(draw(st.floats(1.01, 10)), draw(st.floats(0.1, 10))),
    )
