# The service in an image: built from the lock file in one stage, run without root or a compiler in the next.
#
#   docker build -t datasink .
#   docker run -v datasink:/var/lib/datasink -v ./tls:/tls:ro -e DATASINK_TLS_CERTIFICATE=/tls/server.pem -e DATASINK_TLS_KEY=/tls/server.key -p 50051:50051 datasink
#
# Without TLS it refuses to listen beyond loopback, and exits 64, unless DATASINK_INSECURE_LISTEN=true says that a mesh encrypts.

FROM rust:1.95-bookworm AS build
# librdkafka is compiled from source (C and C++) and links the system's OpenSSL.
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential libssl-dev pkg-config \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bin datasink

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates libssl3 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/datasink --shell /usr/sbin/nologin datasink \
 && install -d -o datasink -g datasink -m 0700 /var/lib/datasink
COPY --from=build /src/target/release/datasink /usr/local/bin/datasink
USER datasink
VOLUME /var/lib/datasink
EXPOSE 50051
# SIGTERM drains, and is heard because the program itself is process 1. A drain takes up to 30 s and Docker waits 10:
# `docker stop -t 35`, or stop_grace_period in Compose.
STOPSIGNAL SIGTERM
# Asks grpc.health.v1.Health, as orchestrators should: it also tells of a drain. A server with TLS is asked by its certificate's name: give
# the container DATASINK_ADDRESS=https://NAME:50051 and, for an authority of one's own, DATASINK_CA_FILE.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["datasink", "health"]
ENTRYPOINT ["datasink"]
CMD ["serve", "--listen", "0.0.0.0:50051", "--data-dir", "/var/lib/datasink"]
