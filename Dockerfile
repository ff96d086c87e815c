# One image for the balancer and for mock instances: docker build -t evenkeel .
#
#   docker run -v ./evenkeel.toml:/etc/evenkeel/evenkeel.toml:ro -p 8080:8080 evenkeel
#   docker run evenkeel mock --listen :8000
#
# The base images can be replaced: docker build --build-arg BUILD_IMAGE=… --build-arg RUN_IMAGE=… .
ARG BUILD_IMAGE=rust:1.95-slim-bookworm
ARG RUN_IMAGE=debian:bookworm-slim

FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# Dependencies first, around an empty crate: this layer is built again only when they change.
COPY Cargo.toml Cargo.lock ./
COPY benches benches
RUN mkdir src \
    && echo '//! Empty.' > src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked \
    && rm -r src
COPY conf conf
COPY src src
# cargo goes by modification times, and those of the copied files are older than the empty crate's.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked \
    && strip --strip-debug target/release/evenkeel

FROM ${RUN_IMAGE}
# A number, so that Kubernetes' runAsNonRoot can tell. Learned state is written below /var/lib/evenkeel.
RUN useradd --system --uid 10001 --home-dir /var/lib/evenkeel --create-home --shell /usr/sbin/nologin evenkeel \
    && mkdir -p /etc/evenkeel
COPY --from=build /src/target/release/evenkeel /usr/local/bin/evenkeel
# The CAs that backends over TLS are verified with.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/evenkeel/
USER 10001:10001
WORKDIR /var/lib/evenkeel
EXPOSE 8080 9901
# Asks the admin server, which tells this without a token; EVENKEEL_ADMIN says where it is, if not on port 9901. Where the
# configuration has no [admin] there is nobody to ask: docker run --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["evenkeel", "ctl", "health"]
ENTRYPOINT ["evenkeel"]
CMD ["run"]
