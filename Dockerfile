# syntax=docker/dockerfile:1
FROM nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04

# The compiler is for what is compiled on the machine: Triton and torch.compile.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/ixt
ENV PATH=/opt/ixt/bin:$PATH

WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY ixt ixt
COPY recipes recipes
RUN pip install --no-cache-dir '.[all]'

RUN useradd --create-home runner
USER runner
WORKDIR /home/runner
ENTRYPOINT ["ixt"]
CMD ["--help"]
