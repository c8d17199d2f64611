# syntax=docker/dockerfile:1
# il2vseg-run on x86 with an NVIDIA GPU: TensorRT and its Python bindings come with the base image.
#   docker build -f deploy/docker/x86-cuda.Dockerfile -t il2vseg:cuda .
# Any tag with Python 3.11 or newer and a driver that matches yours will do: --build-arg BASE=...
ARG BASE=nvcr.io/nvidia/tensorrt:25.10-py3
FROM ${BASE}

# OpenCV's wheel needs these two of the system.
RUN apt-get update \
    && apt-get install --no-install-recommends -y libgl1 libglib2.0-0 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# --system-site-packages: `tensorrt` is the image's, built for its CUDA.
RUN python3 -m venv --system-site-packages /opt/il2vseg
# The extra `cpu`: ONNX Runtime, which `il2vseg-export --trt` compares a new engine with.
ARG CUDA_PYTHON="cuda-python>=13,<14"
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
