# NanoClaw OS in two images: `services` (the four services and the command) and `agent` (what runs in a container).
#   docker build --target services -t nanoclaw-os .        docker build --target agent -t nanoclaw-agent .
# BASE_IMAGE is any image with Python 3.11 or newer, its venv module and CA certificates. BUILD_IMAGE is what packages are
# installed on, the base unless said otherwise: behind a proxy of your own it is the base plus your certificate authority and
# pip settings, and nothing of those gets into what runs. The builder that every engine has is enough.
ARG BASE_IMAGE=python:3.13-slim
ARG BUILD_IMAGE=${BASE_IMAGE}

FROM ${BUILD_IMAGE} AS build
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
 # What only an installation needs.
 && for name in services agent; do \
      cd /opt/$name/lib/python3*/site-packages && rm -rf pip pip-* setuptools setuptools-* pkg_resources _distutils_hack \
        distutils-precedence.pth && find . -depth -type d \( -name tests -o -name test \) -exec rm -rf {} + ; \
      rm -f /opt/$name/bin/pip* /opt/$name/bin/*ctivate* ; \
    done \
 # An agent's image holds the agent kit and what it is built on, nothing of the services.
 && cd /opt/agent/lib/python3*/site-packages \
 && rm -rf nanoclaw nanoclaw_store nanoclaw_rpc nanoclaw_telemetry nanoclaw_cli nanoclaw_governance nanoclaw_broker \
    nanoclaw_dispatcher nanoclaw_ipc_gateway /opt/agent/bin/nanoclaw

FROM ${BASE_IMAGE} AS services
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="nanoclaw-os" \
      org.opencontainers.image.description="gRPC services that govern teams of AI agents" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10001 nanoclaw && groupadd --gid 10002 agents \
 && useradd --uid 10001 --gid 10001 --groups 10002 --no-create-home --home-dir /var/lib/nanoclaw nanoclaw \
 # A volume mounted on one of these takes over its owner.
 && for name in . store backups run attempts ipc groups config logs secrets; do \
      install -d -o nanoclaw -g nanoclaw -m 0750 /var/lib/nanoclaw/$name; done
COPY --from=build /opt/services /opt/services
ENV PATH=/opt/services/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 NANOCLAW_HOME=/var/lib/nanoclaw
USER nanoclaw
WORKDIR /var/lib/nanoclaw
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 CMD ["python3", "-m", "nanoclaw_cli.probe"]
ENTRYPOINT ["python3", "-m"]
CMD ["nanoclaw_governance"]

FROM ${BASE_IMAGE} AS agent
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="nanoclaw-agent" \
      org.opencontainers.image.description="what runs in an agent's container: reference agent, file client, MCP server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN groupadd --gid 10002 agents && useradd --uid 10002 --gid 10002 --no-create-home --home-dir /workspace/group agent \
 && install -d -o agent -g agents /workspace /workspace/group /workspace/ipc
COPY --from=build /opt/agent /opt/agent
ENV PATH=/opt/agent/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER agent
WORKDIR /workspace/group
ENTRYPOINT []
CMD ["python3", "-m", "nanoclaw_agent.reference"]
