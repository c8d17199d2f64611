# syntax=docker/dockerfile:1
# il2vseg-run on a Jetson. Build it there:
#   docker build -f deploy/docker/jetson.Dockerfile -t il2vseg:jetson .
# The default is for JetPack 6 (Orin; CUDA 12, TensorRT 10.7, Python 3.12). For JetPack 7 (CUDA 13) add
#   --build-arg BASE=nvcr.io/nvidia/tensorrt:25.10-py3 --build-arg CUDA_PYTHON="cuda-python>=13,<14"
ARG BASE=nvcr.io/nvidia/tensorrt:24.12-py3-igpu
FROM ${BASE}

# OpenCV's wheel needs these two of the system.
RUN apt-get update \
    && apt-get install --no-install-recommends -y libgl1 libglib2.0-0 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# --system-site-packages: `tensorrt` is the image's, built for the Jetson.
RUN python3 -m venv --system-site-packages /opt/il2vseg
# The extra `cpu`: ONNX Runtime, which `il2vseg-export --trt` compares a new engine with.
ARG CUDA_PYTHON="cuda-python>=12,<13"
COPY . /src
RUN /opt/il2vseg/bin/pip install --no-cache-dir "/src[cpu,web,video]" "${CUDA_PYTHON}" \
    && rm -rf /src

RUN useradd --uid 10001 --create-home --groups video il2vseg
USER il2vseg
WORKDIR /home/il2vseg
ENV PATH=/opt/il2vseg/bin:$PATH PYTHONUNBUFFERED=1
EXPOSE 8080
ENTRYPOINT ["il2vseg-run"]
CMD ["--help"]
