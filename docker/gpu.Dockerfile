# Cardinal on NVIDIA GPUs: docker build -f docker/gpu.Dockerfile -t cardinal:gpu .
# Ray, wherever it is started in here, finds the locked environment and this checkout.
FROM python:3.11.14-slim-bookworm

# What vLLM links to, the compiler that Triton wants, and what NCCL opens InfiniBand and RoCE with
# (without a word it takes TCP); Debian's point release pins them. CUDA's libraries come with torch:
# the host brings its driver (CUDA 13: 580 or newer), no more. Which GPUs a container sees is said by who
# starts it: NVIDIA_VISIBLE_DEVICES in an image shows all of them to pods that requested none.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        g++ libnuma1 libibverbs1 ibverbs-providers librdmacm1 \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/cardinal/.venv/bin:$PATH \
    PYTHONPATH=/opt/cardinal \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PIP_NO_CACHE_DIR=1 \
    UV_NO_CACHE=1
RUN useradd --uid 1000 --create-home cardinal \
    && install --directory --owner=cardinal /opt/cardinal /mnt/cardinal \
    && echo "export PATH=$PATH" > /etc/profile.d/cardinal.sh
USER 1000
WORKDIR /opt/cardinal

# The packages first: they change seldom, and take minutes.
COPY --chown=1000 pyproject.toml README.md LICENSE ./
COPY --chown=1000 requirements requirements
COPY --chown=1000 tools/setup.sh tools/setup.sh
RUN tools/setup.sh gpu

COPY --chown=1000 . .
CMD ["cardinal", "--help"]
