# The challenge's container. GPU build:  docker build -t reunet:latest .
# CPU build:  docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu -t reunet:latest .
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE}

ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

WORKDIR /workspace
COPY requirements.txt .
RUN python3 -m pip install --quiet ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY reunet reunet
RUN python3 -m pip install --quiet --no-deps . && rm -rf build *.egg-info reunet

COPY weights weights
COPY predict.sh .
RUN chmod -R a+rX /workspace
ENV REUNET_WEIGHTS=/workspace/weights

CMD ["/bin/sh", "predict.sh"]
