# Written by `make signatures` from the flags of the commands: not to be edited.
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Required, TypedDict

class TrainFlags(TypedDict, total=False):
    dataset: str
    root: str | Path | None
    split: str
    match: str | None
    crop: Literal["none", "center", "five"]
    ignore_mask: str | None
    num_classes: int | Literal["auto"]
    clusters: int | Literal["auto"] | None
    method: str
    backbone: str
    weights: str | Path | None
    size: Sequence[int] | None
    limit: int | None
    steps: int | None
    batch: int | None
    accumulate: int | None
    loss_memory: float | None
    mixed_precision: Literal["no", "bf16", "fp16"] | None
    whitening: int | None
    centre: bool | None
    alpha: float | None
    even_exposure: bool | None
    dark_only: bool | None
    adapt: bool | None
    clustering: Literal["ward", "minibatch"]
    recluster: bool
    seed: int
    out: str | Path | None
    cache: str | Path | None
    cache_limit: float
    progress: Literal["bar", "json"]
    resume: bool

class EvaluateFlags(TypedDict, total=False):
    checkpoint: str | Path | None
    model: str | Path | None
    provider: Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
    dataset: str
    root: str | Path | None
    split: Sequence[str]
    ignore_mask: str | None
    crop: Literal["none", "center", "five"]
    alpha: float | None
    flip: bool
    crf: bool
    protocol: Literal["own", "paper"]
    cluster_split: str | None
    assignment: str | Path | None
    by_name: bool
    obstacles: bool
    danger_zone: float | None
    camera_height: float | None
    fov: float | None
    pitch: float | None
    batch_size: int
    limit: int | None
    seed: int
    weights: str | Path | None
    json: str | Path | None
    plots: str | Path | None

class DistillFlags(TypedDict, total=False):
    teacher: Required[str | Path]
    dataset: str
    root: str | Path | None
    split: str
    ignore_mask: str | None
    elsewhere: str | Path | None
    student: str
    size: Sequence[int] | None
    steps: int
    batch: int
    scales: Sequence[float]
    flip: bool
    paste: bool | None
    restyle: float
    workers: int | None
    limit: int | None
    held_out: int
    seed: int
    weights: str | Path | None
    out: str | Path | None
    progress: Literal["bar", "json"]

class ExportFlags(TypedDict, total=False):
    checkpoint: str | Path
    out: str | Path | None
    size: Sequence[int] | None
    precision: Literal["fp32", "fp16", "int8"]
    batch: int
    alpha: float | None
    verify: str | Path | None
    verify_frames: int
    calib: str | Path | None
    calib_frames: int
    trt: bool
    model: str | Path | None
    workspace: int
    timing_cache: str | Path
    triton: bool
    weights: str | Path | None
    name: str | None
    progress: Literal["bar", "json"]

class NameFlags(TypedDict, total=False):
    model: Required[str | Path]
    dataset: str
    root: str | Path | None
    split: str
    ignore_mask: str | None
    set: Sequence[str] | None
    from_: str | Path | None
    from_masks: str | Path | None
    divide: Sequence[str] | None
    like: str | Path | None
    accept: float | None
    clicks: str | Path | None
    serve: str | None
    token: str | None
    allow_host: Sequence[str] | None
    picture: str | Path | None
    limit: int
    weights: str | Path | None
