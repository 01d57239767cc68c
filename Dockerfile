# docker build -t order-service .
# The last stage is the service; `--target provider-simulator` is what plays the providers for development.

# To pin the base: --build-arg NODE_IMAGE=node:24-bookworm-slim@sha256:...
ARG NODE_IMAGE=node:24-bookworm-slim

FROM ${NODE_IMAGE} AS dependencies
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
# Not the optional packages: they are a Node and a Postgres for machines that have none.
RUN npm ci --omit=dev --omit=optional --ignore-scripts \
 && rm -f node_modules/swagger-ui-dist/*.map

FROM ${NODE_IMAGE} AS base
ENV NODE_ENV=production
WORKDIR /app
COPY --from=dependencies /app/node_modules ./node_modules
COPY package.json ./

FROM base AS provider-simulator
COPY dev/provider-simulator ./dev/provider-simulator
RUN install -d -o node -g node /var/lib/provider-simulator
USER node
EXPOSE 4010
# Without a shell, so that node is process 1 and gets SIGTERM itself; so below.
CMD ["node", "dev/provider-simulator/main.ts", "--host", "0.0.0.0", "--ledger", "/var/lib/provider-simulator/ledger.jsonl"]

FROM base AS service
ENV HOST=0.0.0.0
COPY migrations ./migrations
COPY src ./src
USER node
EXPOSE 3000
# Whether the process answers, not whether Postgres does: a restart would not mend that.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT || 3000}/livez`).then(({ ok }) => process.exit(ok ? 0 : 1), () => process.exit(1))"]
CMD ["node", "src/main.ts"]
