# One Henge node.
#
#   docker build -t henge .
#   docker run --rm -p 127.0.0.1:8098:8098 -e HENGE_LISTEN_INSECURE=true -v henge:/data henge
#
# In a container the HTTP door has to listen on all of its addresses to be reached at all: the node
# starts only with HENGE_AUTH_ENABLED=true (roles: see the README), or with HENGE_LISTEN_INSECURE=true,
# by which you say that strangers cannot reach it. There is no TLS: publish the port on 127.0.0.1, as
# above, or on a private network.
#
# Every setting has a variable (HENGE_SECTION_KEY, see config/henge.toml). Three nodes on one
# private network, each told its name and how the others reach it:
#
#   docker network create henge
#   for i in 1 2 3; do docker run -d --name n$i --network henge -p 127.0.0.1:809$i:8098 \
#     -e HENGE_LISTEN_INSECURE=true -e HENGE_NODE_NAME=n$i -e HENGE_TOPOLOGY_RACK=r$i \
#     -e HENGE_LISTEN_PEER=0.0.0.0:7000 -e HENGE_LISTEN_ADVERTISE_ADDRESS=n$i:7000 \
#     -e HENGE_CLUSTER_FOUNDERS=n1=n1:7000,n2=n2:7000,n3=n3:7000 -v henge$i:/data henge; done

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
RUN cargo build --release --locked --bin henge

FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --home-dir /data henge && install -d -o henge /data /etc/henge
COPY --from=build /src/target/release/henge /usr/local/bin/henge
COPY config/henge.toml /etc/henge/henge.toml
USER henge
WORKDIR /data
ENV HENGE_NODE_DATA_DIR=/data HENGE_LISTEN_HTTP=0.0.0.0:8098
VOLUME /data
EXPOSE 8098 7000
# SIGTERM lets the node finish what is under way.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --start-period=5s CMD ["henge", "status"]
ENTRYPOINT ["henge"]
CMD ["start", "--config", "/etc/henge/henge.toml"]
