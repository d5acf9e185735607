# One image per service: `docker build --build-arg PACKAGE=mesh-gateway --build-arg MODULE=gateway …`
# (deploy/docker/build does it).
# BASE needs Python 3.11 with venv; the default is public, an offline host names its own.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG PACKAGE
# More distributions from the wheel folder, e.g. an upstream MCP server for the tool-runner.
ARG EXTRA=""
COPY build/wheels /wheels
RUN python3 -m venv /app \
 && /app/bin/pip install --no-index --find-links /wheels --no-compile --quiet "${PACKAGE}" ${EXTRA}

FROM ${BASE}
ARG MODULE
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 MESH_MODULE=${MODULE}
COPY --from=build /app /app
# Agents of swarms have their directories there; the user may be any.
RUN useradd --system --uid 10001 --no-create-home mesh && install -d -m 1777 /agents
USER 10001
# `exec` keeps the service PID 1: SIGTERM drains.
ENTRYPOINT ["/bin/sh", "-c", "exec python3 -m \"$MESH_MODULE\" --config \"${MESH_CONFIG:-/etc/mesh/service.toml}\""]
