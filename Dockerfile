FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements-build.lock ./
RUN python -m venv /build && /build/bin/pip install --quiet --require-hashes -r requirements-build.lock
COPY requirements.lock ./
RUN python -m venv /venv && /venv/bin/pip install --quiet --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY worker worker
# pip has done its work: the image that runs has no need of it.
RUN /build/bin/python -m hatchling build -t wheel -d /dist \
    && /venv/bin/pip install --quiet --no-deps --no-index /dist/*.whl \
    && /venv/bin/pip uninstall --quiet --yes pip

FROM python:3.13-slim
LABEL org.opencontainers.image.title="share worker" \
      org.opencontainers.image.description="Shares Linq contact cards into iMessage chats: at most once per chat per day" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /venv /venv
# The one place that is written to, and only with SQLite; a ledger in the container itself would go with it.
RUN install -d -m 0700 -o 10001 -g 10001 /data
VOLUME /data
# Inside a container the loopback address would answer nobody; what reaches the port from outside is for -p to say.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DATABASE_URL=sqlite:////data/share-worker.db \
    HTTP_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('HTTP_PORT', '8080') + '/livez', timeout=4)"]
ENTRYPOINT ["share-worker"]
CMD ["serve"]
