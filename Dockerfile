# One image for every command: docker build -t file-service . && docker run -v files:/data -p 8080:8080 file-service
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS builder
# Two environments: pip and the build tools stay in the one that is not copied.
RUN python -m venv /opt/build \
    && python -m venv --without-pip /opt/file-service
WORKDIR /src

# The dependencies come before the code, so that a change of code does not install them again.
# Wheels only, since there is no compiler here; aiologger is pure Python and comes as source alone.
# Bytecode is trusted as it is: the files never change, and copies may not keep their times.
COPY requirements/build.txt requirements/service.txt requirements/
RUN /opt/build/bin/pip install --no-cache-dir --only-binary :all: --require-hashes \
        -r requirements/build.txt \
    && /opt/build/bin/pip wheel --no-cache-dir --no-build-isolation --wheel-dir wheels \
        --only-binary :all: --no-binary aiologger --require-hashes -r requirements/service.txt \
    && /opt/build/bin/pip --python /opt/file-service/bin/python install --no-cache-dir --no-compile \
        --no-index --no-deps wheels/*.whl \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/file-service/lib

COPY LICENSE README.md pyproject.toml ./
COPY migrations migrations
COPY file_service file_service
RUN /opt/build/bin/python -m build --wheel --no-isolation --outdir dist . \
    && /opt/build/bin/pip --python /opt/file-service/bin/python install --no-cache-dir --no-compile \
        --no-index --no-deps dist/*.whl \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/file-service/lib


FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="file-service" \
      org.opencontainers.image.description="An async HTTP file-storage service: streamed uploads in, plain links out, rows in PostgreSQL." \
      org.opencontainers.image.licenses="MIT"

# Fixed numbers: whoever mounts a host folder must know whom to give it to.
# The base image's own pip goes: nothing is installed into what runs.
RUN groupadd --gid 10001 file-service \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /data \
        --shell /usr/sbin/nologin file-service \
    && install --directory --mode 0750 --owner 10001 --group 10001 /data /data/files \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip*

# It stays root's: the service cannot change its own code.
COPY --from=builder /opt/file-service /opt/file-service

# Four slashes: the catalogue's path is absolute. PostgreSQL is a matter of another URL.
ENV PATH=/opt/file-service/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FILE_SERVICE_HOST=0.0.0.0 \
    FILE_SERVICE_PORT=8080 \
    FILE_SERVICE_DIR=/data/files \
    FILE_SERVICE_DATABASE_URL=sqlite:////data/catalogue.db

# By number, so that a cluster can see without /etc/passwd that it is not root.
USER 10001:10001
# After the folders were made: what changes a volume's path later in a build is lost.
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM

# readyz, not healthz: a proxy that goes by this must not send uploads to a service without database.
# http.client knows no proxy variables. A port given as a flag instead of the variable is not seen.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-I", "-S", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ['FILE_SERVICE_PORT']), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]

# No shell in between: it would keep SIGTERM to itself, and uploads would be cut instead of ended.
ENTRYPOINT ["file-service"]
CMD ["serve"]
