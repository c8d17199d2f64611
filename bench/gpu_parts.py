"""The parts of bench/gpu.py. `gpu_parts.py PART OUT` runs one and writes its rows to OUT/PART.json.

A part is a generator of rows: what was measured is on disk even when a later line crashes the process.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from gpu_exports import export, parity, rtx
from gpu_setting import BATCHES, EXPORT, INT8_SIZE, TOLERANCE, Row, Setting, command, frames, quantiles, timed


def train_command(s: Setting, out: Path, *more: object) -> list[object]:
    """A training on rendered scenes, without the cache of features."""
    size = (64, 96) if s.dry else (252, 448)
    limit, steps = (8, 6) if s.dry else (64, 200)
    words: list[object] = ["il2vseg.train", "--method", "joint", "--dataset", "synthetic"]
    words += [
        "--backbone",
        s.backbone,
        "--size",
        *size,
        "--limit",
        limit,
        "--steps",
        steps,
        "--out",
        out,
        "--cache",
        f"{out}-cache",
    ]
    words += ["--weights", s.weights] if s.weights else []
    return [*words, *more]


def train(s: Setting) -> Iterator[Row]:
    """Training on the GPU gives what the CPU gives; how fast in float32 and bfloat16; two processes on it."""
    folders = {"cpu": s.out / "train-cpu", s.device: s.checkpoint}
    times = {}
    for device, folder in folders.items():
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else None
        times[device] = command("-m", *train_command(s, folder), environment=hidden)
        yield {"what": f"training on {device}, fp32", "s": round(times[device], 1)}
    agreement = agreement_of(s, folders["cpu"], s.checkpoint)
    verdict = "equal enough" if agreement >= TOLERANCE else f"less than {TOLERANCE:.0%}"
    yield {"what": f"labels of {s.device} and cpu agree", "value": f"{agreement:.3%}", "verdict": verdict}
    seconds = command("-m", *train_command(s, s.out / "train-bf16", "--mixed-precision", "bf16"))
    agreement = agreement_of(s, folders["cpu"], s.out / "train-bf16")
    yield {
        "what": f"training on {s.device}, bf16",
        "s": round(seconds, 1),
        "value": f"{agreement:.3%} of the labels",
    }
    if not s.dry:
        words = train_command(s, s.out / "train-two", "--accumulate", "2")
        seconds = command(
            "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *words
        )
        alone = command("-m", *train_command(s, s.out / "train-one", "--accumulate", "2"))
        agreement = agreement_of(s, s.out / "train-one", s.out / "train-two")
        yield {
            "what": "two processes on one GPU (gloo); one process with the same micro-batches",
            "s": f"{seconds:.1f}; {alone:.1f}",
            "value": f"{agreement:.3%} of the labels",
        }
    yield from speeds(s)


def agreement_of(s: Setting, a: Path, b: Path) -> float:
    """Share of pixels of rendered scenes that two checkpoints label alike."""
    import torch

    from il2vseg.models.checkpoint import load_checkpoint

    models = [load_checkpoint(folder, weights=s.weights).to(s.device) for folder in (a, b)]
    same = []
    for frame in frames(models[0].size, 4 if s.dry else 16):
        labels = [m.predict(torch.from_numpy(frame[None]).to(s.device))[0] for m in models]
        same.append(float((labels[0] == labels[1]).float().mean()))
    return statistics.fmean(same)


def speeds(s: Setting) -> Iterator[Row]:
    """Steps and features per second, one after the other and without start-up."""
    import torch

    from il2vseg.models.backbones import build_backbone
    from il2vseg.models.weights import resolve_weights

    size = s.sizes[0]
    backbone = build_backbone(s.backbone, size, resolve_weights(s.backbone, s.weights)).to(s.device)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for batch in (4, 64):
            images = torch.rand(2 if s.dry else batch, 3, *size, device=s.device)

            def run(images: "torch.Tensor" = images, dtype: "torch.dtype" = dtype) -> None:
                autocast = torch.autocast(s.device, dtype, enabled=dtype != torch.float32)
                with torch.inference_mode(), autocast:
                    backbone(images)

            ms = quantiles(run, s)[0]
            yield {
                "what": f"features, {name}, {batch} frames of {size[0]}x{size[1]} at once",
                "value": f"{1e3 * len(images) / ms:.0f} frames/s",
            }
    records = [json.loads(line) for line in (s.checkpoint / "metrics.jsonl").read_text().splitlines()]
    yield {"what": "steps of that training", "value": str(len(records))}


def eager(s: Setting) -> Iterator[Row]:
    """The model in PyTorch, in float32, bfloat16 and compiled: the yardstick of the exports."""
    import torch

    from il2vseg.models.checkpoint import load_checkpoint

    for size in s.sizes:
        model = load_checkpoint(s.checkpoint, size=size, weights=s.weights).to(s.device)
        compiled = torch.compile(model) if size == INT8_SIZE else None
        for batch in BATCHES[:1] if s.dry else BATCHES:
            images = torch.rand(batch, 3, *size, device=s.device)
            for name, net, dtype in (
                ("fp32", model, torch.float32),
                ("bf16", model, torch.bfloat16),
                ("fp32, compiled", compiled, torch.float32),
                ("bf16, compiled", compiled, torch.bfloat16),
            ):
                if net is None:
                    continue

                def run(net: Any = net, dtype: "torch.dtype" = dtype, images: Any = images) -> None:
                    autocast = torch.autocast(s.device, dtype, enabled=dtype != torch.float32)
                    with torch.inference_mode(), autocast:
                        net(images)

                row: Row = {"size": f"{size[0]}x{size[1]}", "batch": batch, "precision": name}
                try:
                    yield timed(row, quantiles(run, s), batch)
                except Exception as error:
                    yield row | {"verdict": " ".join(str(error).split())[:200]}


def run(s: Setting) -> Iterator[Row]:
    """`il2vseg-run` on a rendered clip: frames per second, and where the time of a frame goes."""
    from il2vseg.data.synthetic import write_clip

    clip = s.out / "clip.avi"
    write_clip(clip, 20 if s.dry else 300, seed=0, size=(360, 640))
    provider = "cpu" if s.dry else "cuda"
    export_folder = s.out / "export"
    size = s.sizes[0] if s.dry else (336, 448)
    words: list[object] = ["--checkpoint", s.checkpoint, "--out", export_folder, "--verify", clip]
    words += ["--verify-frames", 4, "--size", *size]
    seconds = command(*EXPORT, *words, *(() if s.dry else ("--precision", "fp16")))
    yield {"model": "export and proof", "value": f"{seconds:.0f} s"}
    for model in (export_folder, "marine-lite"):
        log = s.out / "frames.jsonl"
        words = ["--source", clip, "--model", model, "--provider", provider, "--jsonl", log]
        seconds = command("-m", "il2vseg.runtime.cli", *words)
        records = [json.loads(line) for line in log.read_text().splitlines()]
        found = [r for r in records if r["type"] == "frame"]
        row: Row = {"model": Path(model).name, "frames": len(found), "value": f"{seconds:.1f} s with start"}
        row["frames/s"] = f"{statistics.median(r['fps'] for r in found[len(found) // 2 :]):.0f}"
        stages = dict.fromkeys(k for r in found for k in r["latency_ms"])
        yield row | {
            f"{k} ms": f"{statistics.median(r['latency_ms'].get(k, 0) for r in found):.2f}" for k in stages
        }


def distill(s: Setting) -> Iterator[Row]:
    """Teach marine-lite's network on this device: seconds of a step, minutes of the default number."""
    few, many = (2, 4) if s.dry else (50, 450)
    words: list[object] = ["-m", "il2vseg.distill", "--teacher", s.checkpoint, "--dataset", "synthetic"]
    words += ["--limit", 8 if s.dry else 64, "--size", *((64, 96) if s.dry else (384, 512))]
    words += ["--weights", s.weights] if s.weights else []
    out = s.out / "lite"
    seconds = [command(*words, "--steps", n, "--out", out) for n in (few, few, many)]
    step = (seconds[2] - seconds[1]) / (many - few)
    yield {
        "what": f"mobilenetv4_small_050 on {s.device}",
        "step": f"{1e3 * step:.0f} ms",
        "3000 steps": f"{3000 * step / 60:.1f} min",
        "targets of the teacher and start": f"{seconds[0]:.0f} s",
    }


PARTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    part.__name__: part for part in (train, export, parity, rtx, eager, run, distill)
}


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--weights", type=Path)
    args = parser.parse_args()
    rows: list[Row] = []
    setting = Setting(args.out, args.dry, args.weights)
    with redirect_stdout(sys.stderr):
        for row in PARTS[args.part](setting):
            rows.append(row)
            print(row, flush=True)
            (args.out / f"{args.part}.json").write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
