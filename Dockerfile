# The course in a container: CPU only, no root, ready without a network.
#   docker build -t open-llms .
#   docker run --rm -it --hostname localhost -p 8888:8888 open-llms
# It prints the address to open. The hostname is what that address is made of. Codespaces and
# JupyterHub (deploy/jupyterhub.yaml) use this very image; Binder uses binder/ in its place.
FROM python:3.12-slim-bookworm

# git is for VS Code and Codespaces; Debian's own version of the release is the tested one
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 --shell /bin/bash jovyan \
    && install -d -o jovyan -g jovyan /opt/course \
    && python -m venv /opt/venv

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

# The packages change less often than the lessons: a layer of their own, kept while the lists stay.
# course_utils is there only so that pip can read what it asks for.
WORKDIR /opt/course
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pocket_training/corpus/LICENSE pocket_training/corpus/LICENSE
COPY course_utils course_utils
# PyTorch's CPU build is a tenth of the size; JupyterHub is what a class's hub starts
RUN PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu \
    pip install --no-cache-dir -c constraints.txt -e ".[lab]" "jupyterhub==6.1.1"

COPY --chown=jovyan:jovyan . .
USER 1000
EXPOSE 8888
CMD ["python", "-m", "course_utils", "lab", "--ServerApp.ip=0.0.0.0", "--no-browser"]
