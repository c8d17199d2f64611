"""A model repository for NVIDIA Triton Inference Server, from an exported model."""

import shutil
from pathlib import Path

from il2vseg.base.files import write_text
from il2vseg.export.variants import MODEL_NAME
from il2vseg.runtime.manifest import Manifest, verify_file

CONFIG = """\
# {name}: {classes}
name: "{name}"
platform: "onnxruntime_onnx"
{batching}
input [{{ name: "{input}", data_type: TYPE_UINT8, dims: [{one}{height}, {width}, 3] }}]
output [
  {{ name: "labels", data_type: TYPE_UINT8, dims: [{one}{height}, {width}] }},
  {{ name: "scores", data_type: TYPE_FP32, dims: [{one}{clusters}, {rows}, {columns}] }}
]
instance_group [{{ count: 1, kind: KIND_AUTO }}]
"""

FIXED = """\
# The graph takes one frame at a time, its batch axis is fixed; il2vseg-export --batch N frees it.
max_batch_size: 0"""


def write_repository(folder: Path) -> Path:
    """Write FOLDER/triton, a repository that `tritonserver --model-repository` serves.

    Raises:
        UserError: the folder is not a whole exported model.
    """
    manifest = Manifest.load(folder)
    entry = next(file for file in manifest.files if file.path == MODEL_NAME)
    source = verify_file(folder, entry)
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in manifest.name)
    repository = folder / "triton"
    shutil.rmtree(repository, ignore_errors=True)
    clusters, rows, columns = manifest.outputs.scores
    height, width = manifest.size
    batch = manifest.input.batch
    write_text(
        repository / name / "config.pbtxt",
        CONFIG.format(
            name=name,
            classes=", ".join(manifest.class_names),
            batching=FIXED if batch == 1 else f"max_batch_size: {batch}\ndynamic_batching {{ }}",
            one="1, " if batch == 1 else "",
            input=manifest.input.name,
            height=height,
            width=width,
            clusters=clusters,
            rows=rows,
            columns=columns,
        ),
    )
    version = repository / name / "1"
    version.mkdir()
    shutil.copyfile(source, version / MODEL_NAME)
    return repository
