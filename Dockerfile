# One image for every process: `tollgate gateway`, `admin`, `worker`, `migrate`, `apply`.
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

FROM python:3.13-slim
COPY --from=build /opt/tollgate /opt/tollgate
ENV PATH=/opt/tollgate/bin:$PATH PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin tollgate \
    && install -d -o tollgate -m 700 /var/lib/tollgate
USER tollgate
WORKDIR /tmp
ENTRYPOINT ["tollgate"]
CMD ["--help"]
