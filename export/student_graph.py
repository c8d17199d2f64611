"""The graph of a student, written the way that ONNX Runtime is quick at on a CPU.

The same function, exact up to rounding: as it stands in PyTorch, a fifth of its time goes into turning
interleaved bytes into planes, and into a softmax over planes.
"""

import copy
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from il2vseg.models.network import frames_to_images, label_pixels
from il2vseg.models.student import Student


def reading_rows(conv: nn.Conv2d, scale: float) -> nn.Conv2d:
    """A convolution of RGB planes (B, 3, H, W) as one of rows as they lie in a frame, (B, 1, H, 3 W).

    A pixel is three neighbours B, G, R, so kernel, stride and padding are three times as wide.

    Args:
        conv: padded by zeros, if at all. scale: its weights are multiplied by it.
    """
    assert not isinstance(conv.padding, str)
    (height, width), (down, right), (above, left) = conv.kernel_size, conv.stride, conv.padding
    rows = nn.Conv2d(
        1,
        conv.out_channels,
        (height, 3 * width),
        (down, 3 * right),
        (above, 3 * left),
        bias=conv.bias is not None,
    )
    interleaved = conv.weight.detach().flip(1).permute(0, 2, 3, 1)
    rows.weight.data = scale * interleaved.reshape(rows.weight.shape)
    rows.bias = conv.bias
    return rows


def softmax_of_planes(x: Tensor) -> Tensor:
    """Softmax over the channels of (B, C, h, w), a plane at a time.

    ONNX Runtime's own moves the channels to the end and back, and takes eight times as long for three.
    """
    planes = x.split(1, 1)
    most = reduce(torch.maximum, planes)
    parts = [(plane - most).exp() for plane in planes]
    whole = reduce(torch.add, parts)
    return torch.cat([part / whole for part in parts], 1)


class StudentGraph(nn.Module):
    """A student from uint8 BGR to class ids; see `il2vseg.export.graph.DeployableGraph`."""

    def __init__(self, student: Student) -> None:
        """Take a copy of a student, with the layers that see the frame put in terms of its rows."""
        super().__init__()
        student = copy.deepcopy(student).requires_grad_(False)
        net: Any = student.encoder.net
        net.conv_stem = reading_rows(net.conv_stem, 4.0 / 255.0)
        for name in ("edges", "detail"):
            if layer := getattr(student, name, None):
                layer[0] = reading_rows(layer[0], 1.0 / 255.0)
        self.segmenter = student  # its name is in the names of the graph

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """As `DeployableGraph.forward`."""
        student = self.segmenter
        # Centred, since the first layer's padding is grey. To float first: see `frames_to_images`.
        rows = frame.float().flatten(2)[:, None] - 127.5
        fine, coarse = student.decode(student.encoder.net(rows), rows)
        scores = student.rules(softmax_of_planes(student.classify(fine)))
        labels = label_pixels(scores, frames_to_images(frame), student.spec.low_level)
        if student.novelty is None:
            return labels, scores
        return labels, scores, student.novelty(coarse)
