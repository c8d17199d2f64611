"""python bench/moving.py: do obstacles that move become tracks, and how soon? An exact moving set.

Vessels of the scene renderer (`bench/obstacles.py`) drift, come nearer and bob on the water of a clip without
obstacles, the same ones from frame to frame, half of them small, with exact masks. In a model's labels
obstacles are found and followed as on board, by the marine layer. All biases are scored on the same pictures:

    python bench/moving.py --model marine --clip clips/river.mp4 --bias 0 0.5 1
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from obstacles import clear_water, light_of, picture, some_vessel

import il2vseg
from il2vseg.base.command import Settings, flag, parse
from il2vseg.base.errors import UserError, run_command
from il2vseg.base.files import write_json
from il2vseg.base.images import Frame, Labels
from il2vseg.base.media.clips import Clip
from il2vseg.data.synthetic import OBSTACLE, WATER
from il2vseg.data.synthetic.scene import Vessel
from il2vseg.evaluation.obstacles import LARGE_AREA, REFERENCE, TRUE
from il2vseg.learning.paste.compose import Pasting, place
from il2vseg.runtime.marine.scene import Classes, MarineAnalyser
from il2vseg.runtime.marine.tracks import Tracker
from il2vseg.runtime.model import Model

PROGRAM = "bench/moving.py"
OTHER = 2
TRIES = 300


@dataclass
class MovingConfig(Settings):
    """Follow rendered vessels that move over the water of a clip without obstacles."""

    clip: Path = flag(Path("river.mp4"), "clip without obstacles", metavar="FILE")
    model: str = flag("marine-lite", "what is measured: a bundled name or an export", metavar="NAME")
    water: str = flag("marine-lite", "tells where the water is, for all that are compared", metavar="NAME")
    bias: tuple[float, ...] = flag((0.0,), "added to the obstacle's log-score", metavar="B")
    passes: int = flag(3, "times that the clip is shown, with other vessels", low=1, high=100)
    vessels: int = flag(4, "vessels of a pass", low=0, high=20)
    frames: int = flag(90, "frames of the clip", low=2, high=10_000)
    seed: int = flag(0, "of what is drawn where", low=0, high=1 << 31, metavar="S")
    json: Path | None = flag(None, "write the numbers to this file", metavar="FILE")


@dataclass
class Course:
    """A vessel on its way: its feet (T, 2), row and column, and its lengths (T,) in pixels."""

    vessel: Vessel
    feet: np.ndarray
    lengths: np.ndarray
    seed: tuple[int, ...]

    def draw(self, out: Frame, water: np.ndarray, light: float, index: int) -> np.ndarray:
        """Draw it into a frame (H, W, 3); return its coverage (H, W) in [0, 255]."""
        thing = picture(self.vessel, float(self.lengths[index]), light)
        solid, weight = np.zeros(water.shape, np.uint8), np.ones(water.shape, np.float32)
        y, x = self.feet[index].round().astype(int)
        rng = np.random.default_rng(self.seed)  # the same softness and mirror image in every frame
        place(rng, out, solid, weight, water, thing, (int(y), int(x)), Pasting())
        return solid


def course(rng: np.random.Generator, water: np.ndarray, times: np.ndarray, small: bool) -> Course | None:
    """Draw a course that stays on water (T, H, W) at all times; None if none is found."""
    count, height, width = water.shape
    vessel = some_vessel(rng)
    share = (0.012, 0.035) if small else (0.06, 0.16)
    starts = np.argwhere(water[0])
    passed = (times - times[0]) / max(1e-6, times[-1] - times[0])
    for _ in range(TRIES):
        length = float(np.exp(rng.uniform(*np.log(share)))) * width
        grown = length * (1 + passed * rng.choice([0.0, rng.uniform(0.3, 1.0)]))
        way = np.array([rng.uniform(0, 0.15) * height, rng.uniform(-0.3, 0.3) * width])
        bob = 0.004 * height * np.sin(2 * np.pi * times / rng.uniform(1.5, 3) + rng.uniform(0, 6))
        feet = starts[rng.integers(len(starts))] + passed[:, None] * way
        feet[:, 0] += bob
        y, x = feet.round().astype(int).T
        left, right = (np.round(x + side * grown / 2).astype(int) for side in (-1, 1))
        inside = (y >= 0) & (y < 0.96 * height) & (left > 2) & (right < width - 3)
        steps = np.arange(count)
        if inside.all() and all(water[steps, y, c].all() for c in (x, left, right)):
            return Course(vessel, feet, grown, tuple(int(s) for s in rng.integers(1 << 30, size=2)))
    return None


def courses(config: MovingConfig, number: int, water: np.ndarray, times: np.ndarray) -> list[Course]:
    """The vessels of a pass, none of which meets another; every second one is small."""
    chosen: list[Course] = []
    for index in range(config.vessels):
        rng = np.random.default_rng((config.seed, number, index))
        for _ in range(10):
            new = course(rng, water, times, small=index % 2 == 0)
            if new is None:
                break
            apart = [np.abs(new.feet - o.feet)[:, 1] - (new.lengths + o.lengths) / 2 for o in chosen]
            if all((gap > 12).all() for gap in apart):
                chosen.append(new)
                break
    return chosen


@dataclass
class Score:
    """What a model at a bias made of all passes; pairs are [small, large]."""

    vessels: list[int] = field(default_factory=lambda: [0, 0])
    seen: list[list[float]] = field(default_factory=lambda: [[], []])
    after: list[list[float]] = field(default_factory=lambda: [[], []])
    frames: int = 0
    false: int = 0
    followed: int = 0
    tracks: int = 0

    def to_json(self) -> dict[str, float | None]:
        """Shares are percentages, times seconds; None where there is nothing."""
        values: dict[str, float | None] = {}
        for size, name in enumerate(("small", "large")):
            count, after = self.vessels[size], self.after[size]
            values[f"{name}_vessels"] = count
            values[f"{name}_seen_in_frames"] = 100 * float(np.mean(self.seen[size])) if count else None
            values[f"{name}_followed"] = 100 * len(after) / count if count else None
            values[f"{name}_median_s"] = median(after) if after else None
        return values | {
            "false_per_frame": self.false / self.frames,
            "followed_false_per_frame": self.followed / self.frames,
            "false_tracks": self.tracks,
        }


class Pass:
    """One showing of the clip at one bias."""

    def __init__(self, score: Score, vessels: int) -> None:
        self._score, self._follow = score, Tracker()
        self._analyse = MarineAnalyser(Classes(WATER, OBSTACLE, OTHER))
        self._areas: list[list[float]] = [[] for _ in range(vessels)]
        self._hits: list[list[bool]] = [[] for _ in range(vessels)]
        self._after: dict[int, float] = {}
        self._numbered: Counter[tuple[int, bool]] = Counter()

    def update(self, labels: Labels, ids: np.ndarray, seconds: float) -> None:
        """Take class ids and vessels (H, W), 0 where there is none, at a time after the pass's start."""
        solid = labels == OBSTACLE
        for index, areas in enumerate(self._areas):
            own = ids == index + 1
            areas.append(float(own.sum()) * REFERENCE / ids.size)
            self._hits[index].append(bool(own.any() and solid[own].mean() >= 0.5))
        self._score.frames += 1
        for obstacle in self._follow(self._analyse(labels), seconds).obstacles:
            vessel = whose(obstacle.box, solid, ids)
            self._score.false += vessel == 0
            if obstacle.track is None:
                continue
            self._score.followed += vessel == 0
            self._numbered[obstacle.track, vessel == 0] += 1
            if vessel:
                self._after.setdefault(vessel, seconds)

    def close(self) -> None:
        """Add what became of every vessel."""
        score = self._score
        for index, areas in enumerate(self._areas):
            large = float(np.mean(areas)) >= LARGE_AREA
            score.vessels[large] += 1
            score.seen[large].append(float(np.mean(self._hits[index])))
            if index + 1 in self._after:
                score.after[large].append(self._after[index + 1])
        numbers = {number for number, _ in self._numbered}
        score.tracks += sum(self._numbered[n, True] > self._numbered[n, False] for n in numbers)


def whose(box: tuple[int, int, int, int], solid: np.ndarray, ids: np.ndarray) -> int:
    """The vessel that an obstacle shows most of; 0 if little of it is one."""
    left, top, w, h = box
    window = (slice(top, top + h), slice(left, left + w))
    counts = np.bincount(ids[window][solid[window]], minlength=2)
    return 1 + int(counts[1:].argmax()) if counts[1:].sum() >= TRUE * max(1, counts.sum()) else 0


def labels_of(model: Model, frame: Frame, biases: tuple[float, ...]) -> Iterator[Labels]:
    """Class ids (H, W), OBSTACLE, WATER or OTHER, at every bias of the obstacle's log-score."""
    manifest, scores = model.engine.manifest, model(frame).scores
    shares = np.full((3, *scores.shape[1:]), 1e-6, np.float32)
    for cluster, owner in enumerate(manifest.clusters):
        name = model.names[owner]
        shares[{"obstacle": OBSTACLE, "water": WATER}.get(name, OTHER)] += scores[cluster]
    size = (frame.shape[1], frame.shape[0])
    logs = np.stack([cv2.resize(np.log(share), size) for share in shares])
    for bias in biases:
        moved = logs.copy()
        moved[OBSTACLE] += bias
        yield moved.argmax(0).astype(np.uint8)


def read(config: MovingConfig) -> tuple[list[Frame], np.ndarray, np.ndarray]:
    """The frames of the clip, their times (T,), and where water is for certain (T, H, W)."""
    frames, times, water = [], [], []
    with il2vseg.load(config.water) as model, Clip(config.clip) as clip:
        if "water" not in model.names:
            raise UserError(f"{config.water}: no class is called water")
        for shown in clip.pictures():
            frames.append(shown.frame.copy())
            times.append(shown.seconds)
            water.append(clear_water(model, shown.frame))
            if len(frames) == config.frames:
                break
    return frames, np.array(times), np.stack(water)


def run(config: MovingConfig) -> list[Score]:
    """Print the table."""
    frames, times, water = read(config)
    light = light_of(frames[0])
    scores = [Score() for _ in config.bias]
    with il2vseg.load(config.model) as model:
        for number in range(config.passes):
            vessels = courses(config, number, water, times)
            vessels.sort(key=lambda c: float(c.feet[0, 0]))
            passes = [Pass(score, len(vessels)) for score in scores]
            for index, frame in enumerate(frames):
                out, ids = frame.copy(), np.zeros(frame.shape[:2], np.uint8)
                for vessel, shown in enumerate(vessels, 1):
                    ids[shown.draw(out, water[index].astype(np.float32), light, index) > 127] = vessel
                for part, labels in zip(passes, labels_of(model, out, config.bias), strict=True):
                    part.update(labels, ids, float(times[index] - times[0]))
            for part in passes:
                part.close()
    tell(config, scores)
    return scores


def tell(config: MovingConfig, scores: list[Score]) -> None:
    """Print a row for each bias, and write the JSON."""
    rows = {str(bias): score.to_json() for bias, score in zip(config.bias, scores, strict=True)}
    print(f"| {config.model}, bias | {' | '.join(k.replace('_', ' ') for k in Score(frames=1).to_json())} |")
    for bias, row in rows.items():
        cells = ("–" if v is None else f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values())
        print(f"| {bias} | {' | '.join(cells)} |")
    if config.json is not None:
        write_json(config.json, rows)


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    return run_command(lambda: run(parse(MovingConfig, PROGRAM, argv)) and None, PROGRAM)


if __name__ == "__main__":
    raise SystemExit(main())
