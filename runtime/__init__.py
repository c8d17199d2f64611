"""The streaming runtime: sources, engines, pipeline, sinks, web page. It needs no torch.

Each piece is usable alone:

    for captured in open_source("river.mp4"):
        result = engine(captured.frame)
"""
