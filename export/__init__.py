"""The deployable graph: one ONNX file that computes what the trained model computes, and the proof."""
