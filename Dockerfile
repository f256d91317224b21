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
# The working directory, and so the place of the SQLite file where no DATABASE_URL or DATABASE_URL_FILE names a database.
# Without a volume the ledger would be lost with the container.
RUN install -d -m 0700 -o 10001 -g 10001 /data
VOLUME /data
# The pages must be reachable from outside the container; `docker run -p` decides from where.
# No secret and no DATABASE_URL here: a default in the image would collide with a NAME_FILE that a deployment sets.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HTTP_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
EXPOSE 8080
STOPSIGNAL SIGTERM
# Docker asks each second at first, so the container is healthy as soon as the pages answer.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('HTTP_PORT', '8080') + '/livez', timeout=4)"]
ENTRYPOINT ["share-worker"]
CMD ["serve"]
