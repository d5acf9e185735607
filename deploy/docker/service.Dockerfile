# One image per service: `docker build --build-arg SERVICE=gateway …` (deploy/docker/build does it).
# BASE needs Python 3.11 with venv; the default is public, an offline host names its own.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG SERVICE
# More distributions from the wheel folder, e.g. an upstream MCP server for the tool-runner.
ARG EXTRA=""
COPY build/wheels /wheels
RUN python3 -m venv /app \
 && /app/bin/pip install --no-index --find-links /wheels --no-compile --quiet "mesh-${SERVICE}" ${EXTRA}

FROM ${BASE}
ARG SERVICE
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 MESH_SERVICE=${SERVICE}
COPY --from=build /app /app
RUN useradd --system --uid 10001 --no-create-home mesh
USER 10001
# The module is the service name with an underscore. `exec` keeps the service PID 1: SIGTERM drains.
ENTRYPOINT ["/bin/sh", "-c", "exec python3 -m \"$(echo \"$MESH_SERVICE\" | tr - _)\" --config \"${MESH_CONFIG:-/etc/mesh/service.toml}\""]
