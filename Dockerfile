# One image for every process: `tollgate gateway`, `admin`, `worker`, `migrate`, `apply`; and, as the target `sandbox`, one with
# what jails are made of: docker build --target sandbox -t tollgate-runner .
FROM node:22-slim AS web
WORKDIR /src/admin/web/assets
COPY admin/web/assets/package.json admin/web/assets/package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY admin/web/assets/app.js ./
RUN mkdir ../static && npm run build

FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/tollgate
COPY requirements/image.txt requirements/
RUN /opt/tollgate/bin/pip install --no-cache-dir --require-hashes -r requirements/image.txt
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY ledger ledger
COPY gateway gateway
COPY admin admin
COPY sandbox sandbox
COPY tollgate tollgate
COPY --from=web /src/admin/web/static admin/web/static
RUN /opt/tollgate/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.13-slim AS base
COPY --from=build /opt/tollgate /opt/tollgate
ENV PATH=/opt/tollgate/bin:$PATH PYTHONUNBUFFERED=1

# bubblewrap, and the Python and Node that submitted code gets; npm for its packages (uv comes with Tollgate). It starts as
# root, with the three capabilities that docker-compose.yml names: each jail gets a user id of its own.
FROM base AS sandbox
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=web /usr/local/bin/node /usr/local/bin/node
COPY --from=web /usr/local/lib/node_modules/npm /usr/local/lib/node_modules/npm
RUN ln -s /usr/local/bin/node /usr/bin/node \
    && ln -s /usr/local/lib/node_modules/npm/bin/npm-cli.js /usr/bin/npm \
    && install -d -m 711 /var/lib/tollgate-sandbox \
    && find / -xdev -perm /6000 -type f -exec chmod a-s {} +
WORKDIR /tmp
ENTRYPOINT ["tollgate"]
CMD ["sandbox"]

FROM base
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tollgate \
    && install -d -o tollgate -m 700 /var/lib/tollgate
USER tollgate
WORKDIR /tmp
ENTRYPOINT ["tollgate"]
CMD ["--help"]
