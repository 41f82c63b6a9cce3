# NanoClaw OS in two images: `services` (the four services and the command) and `agent` (what runs in a container).
#   docker build --target services -t nanoclaw-os .        docker build --target agent -t nanoclaw-agent .
# BASE_IMAGE is any image with Python 3.11 or newer, its venv module and CA certificates.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY requirements/build.txt requirements/main.txt requirements/agent.txt requirements/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/build.txt
RUN python3 -m venv /opt/services \
 && /opt/services/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/main.txt
RUN python3 -m venv /opt/agent \
 && /opt/agent/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/agent.txt
COPY pyproject.toml README.md LICENSE ./
COPY libs libs
COPY services services
RUN /opt/build/bin/python -m hatchling build -t wheel -d /dist \
 && /opt/services/bin/python -m pip install --no-cache-dir --no-deps /dist/*.whl \
 && /opt/agent/bin/python -m pip install --no-cache-dir --no-deps /dist/*.whl \
 && for name in services agent; do rm -rf /opt/$name/lib/python3*/site-packages/pip*; done \
 # An agent's image holds the agent kit and what it is built on, nothing of the services.
 && cd /opt/agent/lib/python3*/site-packages \
 && rm -rf nanoclaw nanoclaw_store nanoclaw_rpc nanoclaw_telemetry nanoclaw_cli nanoclaw_governance nanoclaw_broker \
    nanoclaw_dispatcher nanoclaw_ipc_gateway

FROM ${BASE_IMAGE} AS services
LABEL org.opencontainers.image.title="nanoclaw-os" \
      org.opencontainers.image.description="gRPC services that govern teams of AI agents" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 nanoclaw && groupadd --gid 10002 agents \
 && useradd --uid 10001 --gid 10001 --groups 10002 --no-create-home --home-dir /var/lib/nanoclaw nanoclaw \
 && install -d -o nanoclaw -g nanoclaw -m 0750 /var/lib/nanoclaw
COPY --from=build /opt/services /opt/services
ENV PATH=/opt/services/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 NANOCLAW_HOME=/var/lib/nanoclaw
USER nanoclaw
WORKDIR /var/lib/nanoclaw
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m"]
CMD ["nanoclaw_governance"]

FROM ${BASE_IMAGE} AS agent
LABEL org.opencontainers.image.title="nanoclaw-agent" \
      org.opencontainers.image.description="what runs in an agent's container: reference agent, file client, MCP server" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10002 agents && useradd --uid 10002 --gid 10002 --no-create-home --home-dir /workspace agent \
 && install -d -o agent -g agents /workspace /workspace/group /workspace/ipc
COPY --from=build /opt/agent /opt/agent
ENV PATH=/opt/agent/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER agent
WORKDIR /workspace/group
ENTRYPOINT []
CMD ["python3", "-m", "nanoclaw_agent.reference"]
